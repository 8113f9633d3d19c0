"""The base of a policy: a causal language model, its tokenizer with limits, and a fresh conditioner."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from trl.trainer.utils import add_fused_lm_head

from fedvpa.core.errors import ConfigError
from fedvpa.models.architecture import positions_of
from fedvpa.models.device import resolve_device, resolve_dtype
from fedvpa.models.load import load_causal_lm
from fedvpa.models.locate import ModelSource
from fedvpa.policy.conditioning import Conditioner, EmbeddingScale
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.rows import PolicyTokenizer
from fedvpa.policy.sharding import check_shardable, sharded

MEASURED_TOKENS = 16_384
"""Of a larger vocabulary every so many-th token is measured: the deviation is then known to a percent."""

TYPICAL_NORM = 1.0
"""Norm of z that a fresh conditioner expects: that of a prototype at the default ``prototype_scale``."""


def load_base(source: ModelSource, config: PolicyConfig, device: str = "auto") -> tuple[Any, PolicyTokenizer]:
    """A causal language model with TRL's fused LM head, and its tokenizer.

    Raises:
        ModelError: If it cannot be loaded, or its weights are not complete.
    """
    place = resolve_device(device)
    dtype = resolve_dtype(config.precision, place)
    if sharded():
        check_shardable(source.loading)
        place = torch.device("cpu")  # whole in main memory, until it is sharded
    loaded = load_causal_lm(source, dtype, place)
    add_fused_lm_head(loaded.model)
    return loaded.model, limited_tokenizer(loaded.tokenizer, loaded.model, config)


def new_conditioner(config: PolicyConfig, base: Any, latent: int) -> Conditioner:
    """A conditioner for a base model and a z of ``latent`` numbers."""
    scale = embedding_scale(base.get_input_embeddings())
    return Conditioner(config.conditioning, latent, scale, config.prefix_tokens, TYPICAL_NORM)


@torch.no_grad()
def embedding_scale(embed: Any) -> EmbeddingScale:
    """What an embedding module gives, measured on its output, over its tokens (a sample of a very large vocabulary).

    Some architectures (Gemma, MiniCPM) multiply inside the module, so that its table says too little. Others (Granite)
    multiply later: that happens to a prefix and to an added z as well, so the output of the module is right there too.
    """
    table = embed.weight
    tokens = torch.arange(0, len(table), max(1, len(table) // MEASURED_TOKENS), device=table.device)
    given = embed(tokens).float()
    spread = given.std()
    return EmbeddingScale(given.shape[-1], float(spread), float(spread / table[tokens].float().std()))


def limited_tokenizer(tokenizer: Any, model: Any, config: PolicyConfig) -> PolicyTokenizer:
    """The tokenizer with its limits: prefix, prompt and a response of the longest sample fit into the positions.

    A prompt has at most ``config.max_prompt_tokens``, and fewer where the positions leave less room.
    """
    positions = positions_of(model)
    texts = model.config.get_text_config()
    template: dict[str, Any] = {
        "template": config.template or "plain",
        "arguments": config.template_arguments,
        "configurations": (model.config, texts, model.generation_config),
    }
    longest = config.max_prompt_tokens or 2**31
    if positions is None:
        return PolicyTokenizer.of(tokenizer, longest, **template)
    room = positions - config.candidates.max_new_tokens - config.prefix_tokens - 2
    if room < 1:
        raise ConfigError(
            f"The policy has {positions} positions, which candidates of {config.candidates.max_new_tokens} tokens "
            "fill alone.",
            fix="Lower policy.candidates.max_new_tokens.",
        )
    return PolicyTokenizer.of(tokenizer, min(room, longest), positions - config.prefix_tokens, **template)


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Gradient checkpointing by its old name, PEFT's and the one that all supported transformers know, warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
        yield
