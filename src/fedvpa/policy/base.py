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
from fedvpa.policy.conditioning import Conditioner, Placement, gated_factors
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.rows import PolicyTokenizer
from fedvpa.policy.sharding import check_shardable, sharded


def load_base(
    source: ModelSource, config: PolicyConfig, device: str = "auto", slots: int = 0
) -> tuple[Any, PolicyTokenizer]:
    """A causal language model with TRL's fused LM head, and its tokenizer.

    Args:
        source: Where it is.
        config: Precision and limits.
        device: Where to put it.
        slots: Virtual tokens for which each row needs room.

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
    return loaded.model, limited_tokenizer(loaded.tokenizer, loaded.model, config, slots)


def new_conditioner(config: PolicyConfig, adapted: Any, latent: int, placement: Placement = "added") -> Conditioner:
    """A conditioner for a model with its LoRA and a z of ``latent`` numbers."""
    width = int(adapted.get_input_embeddings().weight.shape[-1])
    if config.conditioning == "gated_lora":
        width = sum(len(factor.weight) for factor in gated_factors(adapted))
    made = Conditioner(config.conditioning, latent, width, config.prefix_tokens, placement)
    made.attach(adapted)
    return made


def limited_tokenizer(tokenizer: Any, model: Any, config: PolicyConfig, slots: int = 0) -> PolicyTokenizer:
    """The tokenizer with its limits: slots, prompt and a response of the longest sample fit into the positions.

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
    room = positions - config.candidates.max_new_tokens - slots - 2
    if room < 1:
        raise ConfigError(
            f"The policy has {positions} positions, which candidates of {config.candidates.max_new_tokens} tokens "
            "fill alone.",
            fix="Lower policy.candidates.max_new_tokens.",
        )
    return PolicyTokenizer.of(tokenizer, min(room, longest), positions - slots, **template)


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Gradient checkpointing by its old name, PEFT's and the one that all supported transformers know, warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
        yield
