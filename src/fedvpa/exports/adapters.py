"""A policy under one z as an ordinary LoRA adapter of PEFT, which servers load beside their base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from fedvpa.core.errors import ConfigError
from fedvpa.policy.lora import adapts_experts
from fedvpa.policy.policy import Policy

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What ``vllm serve --max-lora-rank`` takes, beside 1."""


def check_is_lora(kind: str | None) -> None:
    """Raise ConfigError for a conditioning under which a policy at one z is more than a LoRA.

    Args:
        kind: How z enters; None for a policy without z.
    """
    fits = {
        "soft_prefix": "fedvpa export merged, which serves every z by embeddings of the prompt",
        "additive": "fedvpa export merged, which makes a model for each preference",
    }
    if kind in fits:
        raise ConfigError(
            f"Under conditioning={kind} z is in the embeddings and no LoRA holds it.", fix=f"Use {fits[kind]}."
        )


def write_adapter(policy: Policy, z: Tensor | None, folder: Path) -> None:
    """Write a PEFT folder whose adapter is the policy at one z.

    Under a gated LoRA, W_z = W + α/r · B·diag(1 + M·z)·A; the rows of A are scaled, and nothing else is changed.

    Args:
        policy: Uses it up: its LoRA stays at this z.
        z: The latent, shape [k]; None for a policy without z.
        folder: Where to.

    Raises:
        ConfigError: If z is in more than the LoRA.
        StorageError: If it cannot be written.
    """
    conditioner = policy.conditioner
    check_is_lora(None if conditioner is None else conditioner.kind)
    if conditioner is not None and z is not None:
        conditioner.fold(policy.model, z)
    policy.save_adapter(folder)


def rank_for_vllm(policy: Policy) -> int:
    """The smallest ``--max-lora-rank`` of vLLM that takes this adapter; the largest there is if none does."""
    rank: int = max(config.r for config in policy.model.peft_config.values())
    return next((most for most in VLLM_RANKS if most >= rank), VLLM_RANKS[-1])


def what_servers_lack(policy: Policy) -> str:
    """Why vLLM and SGLang cannot load the adapter, in a sentence; empty if they can."""
    model: Any = policy.model
    if adapts_experts(model):
        return "The adapter sits on experts that share one parameter; as far as we know PEFT alone loads such a one."
    return ""
