"""Local training, for one client or for a stacked cohort: the sum of independent losses has independent gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.config import LocalConfig
from fedvpa.core.tree import Tree

ADAM_BETAS = (0.9, 0.95)
"""FedVPA-GP, hyper-parameters of the published runs."""


def optimizers(params: Tree, local: LocalConfig) -> list[torch.optim.Optimizer]:
    """Fresh optimisers, one for ``head.*`` and one for the rest.

    Both act on each element alone, so stacking clients changes nothing.
    """
    head = [leaf for name, leaf in params.items() if name.startswith("head.")]
    rest = [leaf for name, leaf in params.items() if not name.startswith("head.")]
    built: list[torch.optim.Optimizer] = []
    if local.head_optimizer == "sgd":
        built.append(torch.optim.SGD(head, lr=local.head_lr, weight_decay=local.head_weight_decay))
    else:
        built.append(_adamw(head, local.head_lr, local.head_weight_decay))
    if rest:
        built.append(_adamw(rest, local.encoder_lr, local.encoder_weight_decay))
    return built


def _adamw(leaves: list[Tensor], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(leaves, lr=lr, betas=ADAM_BETAS, weight_decay=weight_decay, fused=True)


class StepMeans:
    """The mean of each loss over the local steps of a round, gathered while they run.

    Args:
        steps: How many local steps there are.
    """

    def __init__(self, steps: int) -> None:
        self._steps, self._sums = steps, Tree()

    def add(self, **losses: Tensor) -> None:
        """The losses of one step by name, each of shape [*clients]."""
        for name, value in losses.items():
            before = self._sums.get(name)
            self._sums[name] = value.detach() if before is None else before + value.detach()

    def losses(self, count: Float[Tensor, "*clients"]) -> Tree:
        """``loss.*``: count · the mean over the steps, which adds up over clients.

        Args:
            count: How many pairs each client counts for.
        """
        return {f"loss.{name}": count * total / self._steps for name, total in self._sums.items()}


def train_locally(
    params: Tree,
    loss: Callable[[Tree, int], Tensor],
    local: LocalConfig,
    frozen: Callable[[str], bool] = lambda name: False,
) -> Tree:
    """Take ``local.steps`` optimiser steps.

    Args:
        params: Where to start; untouched.
        loss: (weights, step) → the loss of each client, shape [*clients].
        local: Steps, learning rates.
        frozen: Names that keep their values.

    Returns:
        The weights after training, detached.
    """
    weights = {name: leaf.detach().clone().requires_grad_(not frozen(name)) for name, leaf in params.items()}
    trained = {name: leaf for name, leaf in weights.items() if leaf.requires_grad}
    engines = optimizers(trained, local)
    for step in range(local.steps):
        for optimizer in engines:
            optimizer.zero_grad(set_to_none=True)
        loss(weights, step).sum().backward()
        for optimizer in engines:
            optimizer.step()
    return {name: leaf.detach() for name, leaf in weights.items()}
