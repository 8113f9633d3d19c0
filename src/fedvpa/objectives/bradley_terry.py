"""Bradley–Terry–Luce choice: P(chosen ≻ rejected) = σ(r(chosen) − r(rejected)) (FedVPA-GP, E3–E5)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def choice_log_likelihood(margin: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Log σ(margin), the log-probability of the observed choice.

    Args:
        margin: r(chosen) − r(rejected), in nats.
    """
    return logsigmoid(margin)


def weighted_mean(
    values: Float[Tensor, "*batch n"], weight: Float[Tensor, "*#batch n"], *, empty: float = 0.0
) -> Float[Tensor, "*batch"]:
    """Mean over the last axis; ``empty`` where all weights are zero."""
    total = weight.sum(-1)
    mean = (values * weight).sum(-1) / total.clamp(min=1e-12)
    return mean.where(total > 0, mean.new_tensor(empty))
