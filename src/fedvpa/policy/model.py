"""The z-conditioned policy: a base language model, a LoRA, and what lets z in.

One forward path serves training, generation and evaluation: token rows → embeddings → z enters → the model. The
reference policy is the same object without adapter and without z.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from fedvpa.core.errors import ConfigError
from fedvpa.core.seeds import Label, entropy
from fedvpa.data.schema import Prompt, as_texts
from fedvpa.models.load import quiet
from fedvpa.models.locate import ModelSource
from fedvpa.policy.conditioning import Conditioner
from fedvpa.policy.preference import Preference, latent_of
from fedvpa.policy.rows import IGNORED, Batch, Ids, Layout, PolicyTokenizer
from fedvpa.policy.sampling import SERVING, Sampling


class Policy(nn.Module):
    """A base model with LoRA and, for methods with a latent, a conditioner. Built by :func:`new_policy`.

    Args:
        model: A PEFT model whose base has TRL's fused LM head.
        conditioner: None for one policy without z.
        tokenizer: Its tokenizer.
        source: Where the base came from.
        preferences: Group → the z that stands for it; empty for a policy without z, or one in training.
        sampling: How :meth:`generate` draws unless told otherwise.
    """

    def __init__(
        self,
        model: Any,
        conditioner: Conditioner | None,
        tokenizer: PolicyTokenizer,
        source: ModelSource,
        preferences: Mapping[str, Sequence[float]] | None = None,
        sampling: Sampling = SERVING,
    ) -> None:
        super().__init__()
        self.model, self.conditioner = model, conditioner
        self.tokenizer, self.source = tokenizer, source
        self.preferences: Mapping[str, Sequence[float]] = dict(preferences or {})
        self.sampling = sampling

    def __repr__(self) -> str:
        z = "no z" if self.conditioner is None else f"z of {self.conditioner.latent} numbers"
        return f"Policy(base={self.source.name!r}, {z}, preferences={list(self.preferences)})"

    @classmethod
    def from_pretrained(cls, folder: str | PathLike[str], *, model: str | None = None, device: str = "auto") -> Policy:
        """Load an aligned policy.

        Args:
            folder: A run directory, or its ``policy`` folder.
            model: Where the base model is now, if not where it was: a folder or a hub id.
            device: ``auto`` (a GPU if there is one), or any torch device.

        Raises:
            RunError: If there is no policy, or one for each group; then their folders are named.
            ModelError: If the base model cannot be loaded, or is not the one that the policy was trained on.
        """
        from fedvpa.policy.files import load_pretrained

        return load_pretrained(Path(folder), model=model, device=device)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return torch.device(self.model.device)

    @property
    def layout(self) -> Layout:
        """Of its token rows."""
        return self.tokenizer.layout(self.conditioner.slots if self.conditioner else 0)

    def trained(self) -> dict[str, Tensor]:
        """The weights that stage 2 moves, by name: LoRA and conditioner."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def embed(self, rows: Batch, z: Float[Tensor, "batch k"] | None) -> Float[Tensor, "batch time hidden"]:
        """Input embeddings with z in them; an additive z is in them inside :meth:`listening` only."""
        embeddings = self.model.get_input_embeddings()(rows.ids)
        if self.conditioner is None or z is None or not self.conditioner.slots:
            return embeddings
        return self.conditioner.prefix(embeddings, rows.first, z)

    @contextlib.contextmanager
    def listening(self, z: Float[Tensor, "batch k"] | None) -> Iterator[None]:
        """While inside, the policy follows z: the one door through which training and generation let z in.

        Raises:
            ConfigError: If z is missing, unasked for or of the wrong size.
        """
        if self.conditioner is None:
            if z is not None:
                raise ConfigError("This policy takes no z.", fix="Only policies of methods with a latent do.")
            yield
            return
        if z is None or z.shape[-1] != self.conditioner.latent:
            given = "none is given" if z is None else f"{z.shape[-1]} are given"
            raise ConfigError(f"This policy takes a z of {self.conditioner.latent} numbers, and {given}.")
        with self.conditioner.added(self.model.get_input_embeddings(), z):
            yield

    def forward(self, rows: Batch, z: Float[Tensor, "batch k"] | None) -> Float[Tensor, "batch following"]:
        """Log-probability of each response token given all before it and z, in nats; 0 where no token is scored.

        The first token of a row follows nothing, so column t belongs to ``rows.labels[:, t + 1]``.
        """
        with self.listening(z):
            embeddings = self.embed(rows, z)
        out = self.model(
            inputs_embeds=embeddings, attention_mask=rows.attention, labels=rows.labels, fused_lm_head=True
        )
        return out.log_probs

    def log_probs(
        self, prompts: Sequence[Ids], responses: Sequence[Ids], z: Float[Tensor, "batch k"] | None
    ) -> Float[Tensor, " batch"]:
        """Log-probability of each response given its prompt and z, summed over tokens, in nats."""
        return self(self.layout.rows(prompts, responses).to(self.device), z).sum(1)

    @torch.no_grad()
    def reference_log_probs(
        self, prompts: Sequence[Ids], responses: Sequence[Ids], batch: int = 64
    ) -> list[NDArray[np.float32]]:
        """Log-probability of each response token under the reference policy, in nats. Rows of like length together."""
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]) + len(responses[row]))
        found: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(prompts)
        with self.reference() as base:
            for start in range(0, len(order), batch):
                numbers = order[start : start + batch]
                rows = base.layout.rows([prompts[row] for row in numbers], [responses[row] for row in numbers])
                values = base(rows.to(base.device), None).float().cpu()
                scored = rows.labels[:, 1:] != IGNORED
                for number, value, mask in zip(numbers, values, scored, strict=True):
                    found[number] = value[mask].numpy()
        return found

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Ids],
        z: Float[Tensor, "batch k"] | None,
        sampling: Sampling,
        seed: int,
        *path: Label,
    ) -> list[Ids]:
        """One response per prompt, its end-of-text token included if it came to it.

        Args:
            prompts: Tokens, without special ones.
            z: A latent per prompt.
            sampling: How.
            seed: Names, with ``path``, the random stream.
            *path: Labels.
        """
        found: list[Ids] = []
        training = self.training
        self.eval()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(entropy(seed, *path) % 2**63)
            for start in range(0, len(prompts), sampling.batch):
                part = slice(start, start + sampling.batch)
                found += self._sample(prompts[part], None if z is None else z[part], sampling)
        self.train(training)
        return found

    def _sample(self, prompts: Sequence[Ids], z: Tensor | None, sampling: Sampling) -> list[Ids]:
        rows = self.layout.rows(prompts).to(self.device)
        how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if sampling.temperature > 0:
            how = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        z = None if z is None else z.to(self.device)
        with quiet(), self.listening(z):
            tokens = self.model.generate(
                inputs_embeds=self.embed(rows, z),
                attention_mask=rows.attention,
                max_new_tokens=sampling.max_new_tokens,
                eos_token_id=self.tokenizer.eos,
                pad_token_id=self.tokenizer.pad,
                **how,
            )
        return [_until(row, self.tokenizer.eos) for row in tokens.cpu().numpy().astype("int32")]

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        preference: Preference | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ) -> list[str]:
        """One answer to each prompt.

        Args:
            prompts: A prompt or several: strings, or lists of messages with ``role`` and ``content``.
            preference: Whose: the name of a group, a place from 0 to 1 between two groups, or a z of k numbers, such as
                :func:`fedvpa.personalize` gives. None for a policy without z.
            temperature: 0 for greedy decoding; by default 0.7.
            top_p: Nucleus; by default 1.
            max_new_tokens: Longest answer; by default that of the candidates in training.
            seed: Names the draws.

        Returns:
            The answers, without special tokens.

        Raises:
            ConfigError: If the preference is unknown, missing or unasked for, or prompt and answer do not fit.
        """
        texts = as_texts(prompts)
        sampling = replace(
            self.sampling,
            temperature=self.sampling.temperature if temperature is None else temperature,
            top_p=self.sampling.top_p if top_p is None else top_p,
            max_new_tokens=self.sampling.max_new_tokens if max_new_tokens is None else max_new_tokens,
        )
        z = self._latent(preference)
        asked = self.tokenizer.prompts(texts)
        self._check_room(max(map(len, asked), default=0), sampling.max_new_tokens)
        found = self.sample(asked, None if z is None else z.expand(len(asked), -1), sampling, seed, "generate")
        return [self.tokenizer.text(ids) for ids in found]

    def _latent(self, preference: Preference | None) -> Tensor | None:
        if self.conditioner is None and preference is not None:
            raise ConfigError(
                f"This policy is the same for everybody and cannot follow {preference!r}.",
                fix="Leave the preference out, or align a run of fedvpa_gp.",
            )
        if self.conditioner is None:
            return None
        if preference is None:
            known = ", ".join(self.preferences) or "none by name"
            raise ConfigError(
                "This policy follows a preference, and none is given.",
                fix=f"Give one of its groups ({known}), a number between two of them, or a z such as "
                "fedvpa.personalize gives.",
            )
        return latent_of(preference, self.preferences)

    def _check_room(self, prompt: int, answer: int) -> None:
        whole = self.tokenizer.max_tokens
        room = None if whole is None else whole - len(self.tokenizer.before) - prompt
        if room is not None and answer > room:
            raise ConfigError(
                f"max_new_tokens = {answer} and a prompt of {prompt} tokens do not fit into the policy's positions.",
                fix=f"Give at most {room}." if room > 0 else "Give a shorter prompt.",
            )

    @contextlib.contextmanager
    def reference(self) -> Iterator[Policy]:
        """The reference policy: without adapter and without z, while inside."""
        training = self.training
        self.eval()
        try:
            with self.model.disable_adapter():
                yield Policy(self.model, None, self.tokenizer, self.source).eval()
        finally:
            self.train(training)

    def save_pretrained(self, folder: str | PathLike[str], notes: Mapping[str, Any] | None = None) -> None:
        """Write a standard PEFT adapter folder, ``z_conditioner.safetensors`` and ``policy.json`` beside it.

        Each file is replaced atomically.

        Args:
            folder: Where to.
            notes: Further entries of ``policy.json``.
        """
        from fedvpa.policy.files import save_policy

        save_policy(self, Path(folder), notes or {})


def _until(row: Any, eos: int) -> Ids:
    """A generated row up to its first end-of-text token, which stays."""
    ends = (row == eos).nonzero()[0]
    return row[: ends[0] + 1] if len(ends) else row
