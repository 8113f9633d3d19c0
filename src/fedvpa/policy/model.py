"""The z-conditioned policy: a base language model, a LoRA, and what lets z in.

One forward path serves training, generation and evaluation: token rows → embeddings → z enters → the model. The
reference policy is the same object without adapter and without z.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from fedvpa.core.errors import ConfigError
from fedvpa.core.progress import track
from fedvpa.core.seeds import Label, entropy
from fedvpa.models.batching import batches
from fedvpa.models.budget import token_budget
from fedvpa.models.load import quiet
from fedvpa.models.locate import ModelSource
from fedvpa.policy.conditioning import Conditioner
from fedvpa.policy.generation import FiniteLogits, StopTexts, inheriting_nothing, rows_of, settings_of
from fedvpa.policy.partial_samples import PartialSamples
from fedvpa.policy.rows import IGNORED, Batch, Ids, Layout, PolicyTokenizer
from fedvpa.policy.sampling import Sampling


class PolicyModel(nn.Module):
    """A base model with LoRA and, for methods with a latent, a conditioner.

    Args:
        model: A PEFT model whose base has TRL's fused LM head.
        conditioner: None for one policy without z.
        tokenizer: Its tokenizer.
        source: Where the base came from.
        tokens_per_batch: Upper bound of padded tokens where log-probabilities are computed; None for the default of
            the device.
    """

    def __init__(
        self,
        model: Any,
        conditioner: Conditioner | None,
        tokenizer: PolicyTokenizer,
        source: ModelSource,
        tokens_per_batch: int | None = None,
    ) -> None:
        super().__init__()
        self.tokens_per_batch = tokens_per_batch
        self.model, self.conditioner = model, conditioner
        self.tokenizer, self.source = tokenizer, source

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
    def token_log_probs(
        self, prompts: Sequence[Ids], responses: Sequence[Ids], z: Float[Tensor, "batch k"] | None
    ) -> list[NDArray[np.float32]]:
        """Log-probability of each response token given its prompt and z, in nats, without a gradient.

        As in feature extraction, rows of like length come together, as many as fit into the budget of tokens.
        """
        found: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(prompts)
        extra = self.layout.slots
        whole = [len(prompt) + len(tail) + extra for prompt, tail in zip(prompts, responses, strict=True)]
        width = np.array(whole, dtype=np.int64)
        budget = token_budget(self.tokens_per_batch, self.device.type)
        training = self.training
        self.eval()
        for numbers in batches(width, np.zeros(len(width), bool), budget):
            rows = self.layout.rows([prompts[row] for row in numbers], [responses[row] for row in numbers])
            own = None if z is None else z[torch.from_numpy(numbers)].to(self.device)
            values = self(rows.to(self.device), own).float().cpu()
            for number, value, scored in zip(numbers, values, rows.labels[:, 1:] != IGNORED, strict=True):
                found[number] = value[scored].numpy()
        self.train(training)
        return found

    def reference_log_probs(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> list[NDArray[np.float32]]:
        """:meth:`token_log_probs` of the reference policy."""
        with self.reference() as base:
            return base.token_log_probs(prompts, responses, None)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Ids],
        z: Float[Tensor, "batch k"] | None,
        sampling: Sampling,
        seed: int,
        *path: Label,
        kept: PartialSamples | None = None,
    ) -> list[Ids]:
        """One response per prompt, the token that ended it included if it came to one.

        Every ``sampling.batch`` prompts have a random stream of their own, so that samples that were stopped between
        two of them go on as if they had never been.

        Args:
            prompts: Tokens, special ones in front included.
            z: A latent per prompt.
            sampling: How.
            seed: Names, with ``path``, the random stream.
            *path: Labels.
            kept: Where samples are kept until all are there; what it holds is not sampled again.

        Raises:
            TrainingError: If the logits are not finite: the training has diverged.
        """
        found = kept.load() if kept else []
        training = self.training
        self.eval()
        devices = [self.device] if self.device.type == "cuda" else []
        blocks = range(len(found), len(prompts), sampling.batch)
        with torch.random.fork_rng(devices=devices):
            several = track(blocks, "sampling", len(blocks), unit="responses", weight=sampling.batch)
            for start in several if len(blocks) > 1 else blocks:
                torch.manual_seed(entropy(seed, *path, start) % 2**63)
                part = slice(start, start + sampling.batch)
                found += self._sample(prompts[part], None if z is None else z[part], sampling)
                if kept:
                    kept.save(found)
        self.train(training)
        return found

    def _sample(self, prompts: Sequence[Ids], z: Tensor | None, sampling: Sampling) -> list[Ids]:
        rows = self.layout.rows(prompts).to(self.device)
        texts = [self.tokenizer.stop_texts(prompt) for prompt in prompts]
        z = None if z is None else z.to(self.device)
        with quiet(), self.listening(z), inheriting_nothing(self.model.get_base_model()):
            tokens = self.model.generate(
                inputs_embeds=self.embed(rows, z),
                attention_mask=rows.attention,
                generation_config=settings_of(sampling, self.tokenizer),
                logits_processor=[FiniteLogits()],
                stopping_criteria=[StopTexts(self.tokenizer, texts)] if any(texts) else None,
            )
        return rows_of(tokens, self.tokenizer, texts)

    @contextlib.contextmanager
    def reference(self) -> Iterator[PolicyModel]:
        """The reference policy: without adapter and without z, while inside."""
        training = self.training
        self.eval()
        try:
            with self.model.disable_adapter():
                yield PolicyModel(self.model, None, self.tokenizer, self.source, self.tokens_per_batch).eval()
        finally:
            self.train(training)
