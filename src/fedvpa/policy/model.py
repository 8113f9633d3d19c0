"""The z-conditioned policy: a base language model, a LoRA, and what lets z in.

One forward path serves training, generation and evaluation: token rows → embeddings → z enters → the model. The
reference policy is the same object without adapter and without z.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from fedvpa.core.errors import ConfigError, ModelError, RunError
from fedvpa.core.files import replacing, write_json, write_tensors
from fedvpa.core.seeds import Label, entropy
from fedvpa.features.backbone import explained, load_tokenizer, quiet, resolve_device, resolve_dtype
from fedvpa.features.locate import ModelSource, locate
from fedvpa.policy.conditioning import Conditioner
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.rows import IGNORED, Batch, Ids, Layout, Words

SCHEMA_VERSION = 2
TYPICAL_NORM = 1.0
"""Norm of z that a fresh conditioner expects: that of a prototype at the default ``prototype_scale``."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How responses are drawn.

    Attributes:
        temperature: 0 for greedy decoding.
        top_p: Nucleus.
        max_new_tokens: Longest response.
        batch: Prompts at once.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 112
    batch: int = 300


class Policy(nn.Module):
    """A base model with LoRA and, for methods with a latent, a conditioner. Built by :func:`new_policy`.

    Args:
        model: A PEFT model whose base has TRL's fused LM head.
        conditioner: None for one policy without z.
        words: Its tokenizer.
        source: Where the base came from.
    """

    def __init__(self, model: Any, conditioner: Conditioner | None, words: Words, source: ModelSource) -> None:
        super().__init__()
        self.model, self.conditioner = model, conditioner
        self.words, self.source = words, source

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return torch.device(self.model.device)

    @property
    def layout(self) -> Layout:
        """Of its token rows."""
        return self.words.layout(self.conditioner.slots if self.conditioner else 0)

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
    def generate(
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
                found += self._generate(prompts[part], None if z is None else z[part], sampling)
        self.train(training)
        return found

    def _generate(self, prompts: Sequence[Ids], z: Tensor | None, sampling: Sampling) -> list[Ids]:
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
                eos_token_id=self.words.eos,
                pad_token_id=self.words.pad,
                **how,
            )
        return [_until(row, self.words.eos) for row in tokens.cpu().numpy().astype("int32")]

    @contextlib.contextmanager
    def reference(self) -> Iterator[Policy]:
        """The reference policy: without adapter and without z, while inside."""
        training = self.training
        self.eval()
        try:
            with self.model.disable_adapter():
                yield Policy(self.model, None, self.words, self.source).eval()
        finally:
            self.train(training)

    def save_pretrained(self, folder: Path, notes: dict[str, Any] | None = None) -> None:
        """Write a standard PEFT adapter folder, ``z_conditioner.safetensors`` and ``policy.json`` beside it.

        Each file is replaced atomically.

        Args:
            folder: Where to.
            notes: Further entries of ``policy.json``.
        """
        with tempfile.TemporaryDirectory() as temporary:
            self.model.save_pretrained(temporary)
            for file in sorted(Path(temporary).iterdir()):
                if file.name != "README.md":
                    with replacing(folder / file.name) as target:
                        shutil.copyfile(file, target)
        shape = None
        if self.conditioner is not None:
            write_tensors(folder / "z_conditioner.safetensors", self.conditioner.state_dict())
            tokens = self.conditioner.slots or 1
            shape = {"kind": self.conditioner.kind, "latent": self.conditioner.latent, "prefix_tokens": tokens}
        write_json(
            folder / "policy.json",
            {
                "schema_version": SCHEMA_VERSION,
                "model": self.source.name,
                "base": self.source.identity(),
                "max_prompt_tokens": self.words.max_prompt_tokens,
                "conditioner": shape,
                **(notes or {}),
            },
        )


def new_policy(config: PolicyConfig, model: str, latent: int | None, seed: int, *, device: str = "auto") -> Policy:
    """The base model with a fresh LoRA and conditioner.

    Args:
        config: Its shape.
        model: The base policy, if ``config.model`` names none.
        latent: k, the size of z; None for a policy without z.
        seed: Names the initial weights.
        device: Where to put it.

    Raises:
        ModelError: If the folder is unusable or no causal language model.
    """
    source = locate(config.model or model)
    base, words = load_base(source, config, device)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy(seed, "policy", "init") % 2**63)
        conditioner = None if latent is None else _new_conditioner(config, base, latent)
        with _quiet_peft():
            adapted = get_peft_model(base, lora)
    if config.gradient_checkpointing:
        # transformers renamed it in 5.x and warns under the old name.
        newer = getattr(base, "activation_checkpointing_enable", None)
        (newer or base.gradient_checkpointing_enable)({"use_reentrant": False})
        adapted.enable_input_require_grads()
    return _assemble(adapted, conditioner, words, source)


def load_base(source: ModelSource, config: PolicyConfig, device: str = "auto") -> tuple[Any, Words]:
    """A causal language model with TRL's fused LM head, and its tokenizer.

    Raises:
        ModelError: If it cannot be loaded.
    """
    place = resolve_device(device)
    dtype = resolve_dtype(config.precision, place)
    with quiet(), explained(source):
        tokenizer = load_tokenizer(source.folder)
        model: Any = AutoModelForCausalLM.from_pretrained(source.folder, dtype=dtype)
    add_fused_lm_head(model)
    model.requires_grad_(False)
    return model.to(place), _words(tokenizer, model, config)


def read_policy(folder: Path) -> dict[str, Any]:
    """``policy.json`` of a folder that :meth:`Policy.save_pretrained` wrote.

    Raises:
        RunError: If it is not such a folder, or of another schema version.
    """
    try:
        saved: dict[str, Any] = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise RunError("holds no policy.", fix="Run: fedvpa align RUN", where=str(folder)) from error
    if saved.get("schema_version") != SCHEMA_VERSION:
        raise RunError(
            f"has schema version {saved.get('schema_version')}; this fedvpa reads {SCHEMA_VERSION}.",
            fix="Align again, or use the fedvpa that wrote it.",
            where=str(folder),
        )
    return saved


def load_policy(folder: Path, config: PolicyConfig, *, device: str = "auto") -> Policy:
    """What :meth:`Policy.save_pretrained` wrote.

    Raises:
        RunError: If it is not such a folder, of another schema version, or the base model has changed.
        ModelError: If the base model cannot be loaded.
    """
    saved = read_policy(folder)
    for name in ("adapter_model.safetensors", *(["z_conditioner.safetensors"] if saved["conditioner"] else [])):
        if not (folder / name).is_file():
            raise RunError(
                f"lacks {name}, without which it is no policy.", fix="Restore it, or align again.", where=str(folder)
            )
    source = locate(config.model or saved["model"])
    if source.identity() != saved["base"]:
        raise ModelError(
            f"The policy was trained on other weights of {saved['model']!r} than these.",
            fix="Give the base model that it was trained on: policy.model=PATH.",
            where=str(source.folder),
        )
    base, words = load_base(source, config, device)
    with _quiet_peft():
        adapted = PeftModel.from_pretrained(base, folder, is_trainable=True)
    conditioner = None
    if saved["conditioner"] is not None:
        shape = saved["conditioner"]
        values = {"conditioning": shape["kind"], "prefix_tokens": shape["prefix_tokens"]}
        conditioner = _new_conditioner(config.model_copy(update=values), base, shape["latent"])
        conditioner.load_state_dict(load_file(folder / "z_conditioner.safetensors"))
    return _assemble(adapted, conditioner, words, source)


def snapshot(policy: Policy) -> dict[str, Tensor]:
    """A copy of the trained weights."""
    return {name: copy.deepcopy(weight.detach()) for name, weight in policy.trained().items()}


@torch.no_grad()
def restore(policy: Policy, weights: dict[str, Tensor]) -> None:
    """Put a :func:`snapshot` back."""
    for name, weight in policy.trained().items():
        weight.copy_(weights[name])


def check_fits(policy: Policy, weights: Mapping[str, Tensor]) -> None:
    """Whether ``weights`` are a :func:`snapshot` of such a policy.

    Raises:
        RunError: If names or shapes differ; says which first.
    """
    wanted = {name: tuple(leaf.shape) for name, leaf in policy.trained().items()}
    given = {name: tuple(leaf.shape) for name, leaf in weights.items()}
    if wanted != given:
        odd = next(name for name in sorted(wanted.keys() | given.keys()) if wanted.get(name) != given.get(name))
        raise RunError(
            f"The state to go on from has {given.get(odd)} for {odd}, and the policy {wanted.get(odd)}.",
            fix="Build the policy with the model and lora_rank of that run.",
        )


def new_adapter(policy: Policy, seed: int, *path: Label) -> dict[str, Tensor]:
    """Initial weights of a further LoRA of the same shape; the policy gets them too.

    Args:
        policy: Without conditioner.
        seed: Names, with ``path``, the weights.
        *path: Labels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy(seed, *path) % 2**63)
        for layer in policy.modules():
            if isinstance(layer, LoraLayer):
                layer.reset_lora_parameters("default", True)
    return snapshot(policy)


@contextlib.contextmanager
def _quiet_peft() -> Iterator[None]:
    """Gradient checkpointing by its old name, PEFT's and the one that all supported transformers know, warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
        yield


def _assemble(adapted: Any, conditioner: Conditioner | None, words: Words, source: ModelSource) -> Policy:
    if conditioner is not None:
        conditioner.to(adapted.device)
    return Policy(adapted, conditioner, words, source)


def _new_conditioner(config: PolicyConfig, base: Any, latent: int) -> Conditioner:
    table = base.get_input_embeddings().weight
    return Conditioner(
        config.conditioning, latent, table.shape[1], config.prefix_tokens, float(table.float().std()), TYPICAL_NORM
    )


def positions_of(model: Any) -> int | None:
    """How many tokens a row of a model may have; None where nothing says."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(positions) if positions else None


def _words(tokenizer: Any, model: Any, config: PolicyConfig) -> Words:
    """The tokenizer with its limits: prefix, prompt and a response of the longest sample fit into the positions."""
    positions = positions_of(model)
    if positions is None:
        return Words.of(tokenizer, 2**31)
    room = positions - config.candidates.max_new_tokens - config.prefix_tokens - 2
    if room < 1:
        raise ConfigError(
            f"The policy has {positions} positions, which candidates of {config.candidates.max_new_tokens} tokens "
            "fill alone.",
            fix="Lower policy.candidates.max_new_tokens.",
        )
    return Words.of(tokenizer, room, positions - config.prefix_tokens)


def _until(row: Any, eos: int) -> Ids:
    """A generated row up to its first end-of-text token, which stays."""
    ends = (row == eos).nonzero()[0]
    return row[: ends[0] + 1] if len(ends) else row
