"""The orthogonal loss of FedVPA-GP (E9): pull a client's latent to its prototype, keep the prototypes orthogonal."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def prototype_pull(z: Float[Tensor, "*batch k"], target: Float[Tensor, "*#batch k"]) -> Float[Tensor, "*batch"]:
    """‖z − p‖², with p the client's prototype, or the responsibility-weighted mean of them (E9, first term)."""
    return (z - target).square().sum(-1)


def prototype_gram_penalty(prototypes: Float[Tensor, "*batch m k"], scale: float) -> Float[Tensor, "*batch"]:
    """‖P Pᵀ/s² − I‖_F² (E9, second term).

    The paper writes P Pᵀ − I and scales its prototypes by 5, which cannot both hold: the penalty would then pull their
    norm to 1. Dividing by s² keeps the norm that was asked for.

    Args:
        prototypes: Rows are prototypes.
        scale: s, the norm that a prototype should have.
    """
    gram = prototypes @ prototypes.mT / scale**2
    return (gram - torch.eye(prototypes.shape[-2], dtype=gram.dtype, device=gram.device)).square().sum((-2, -1))
