"""Federated averaging of weights, with the mean of the last rounds kept beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.config import ServerConfig
from fedvpa.algorithms.server.validation import Bounds
from fedvpa.core import tree
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree, below, prefixed


@dataclass(frozen=True, repr=False)
class Averaged:
    """Weights, and their mean over the last rounds: the state of a method that averages weights and nothing else.

    Attributes:
        params: The current weights.
        round: Rounds completed.
        average: Mean of the weights over the rounds of the averaging tail; empty before it starts.
        averaged: How many rounds ``average`` holds.
    """

    params: Tree
    round: int = 0
    average: Tree = field(default_factory=dict)
    averaged: int = 0

    __repr__ = short_repr

    @property
    def final(self) -> Tree:
        """The weights to use after training: the average of the tail, or the current ones before it starts."""
        return self.average if self.averaged else self.params


def weighted_delta(before: Tree, after: Tree, weight: Tensor) -> Tree:
    """The additive part of an update: ``weight``, and ``delta.*`` = weight · (after − before), for any leading axes."""

    def change(old: Tensor, new: Tensor) -> Tensor:
        return weight.reshape(weight.shape + (1,) * (old.ndim - weight.ndim)) * (new - old)

    return {"weight": weight} | prefixed("delta", tree.combine(change, before, after))


AveragedT = TypeVar("AveragedT", bound=Averaged)


def federated_average(state: AveragedT, update: CohortUpdate, config: ServerConfig, *, tail_from: int = 0) -> AveragedT:
    """θ ← θ + Σ weight·Δ / Σ weight (FedAvg; McMahan et al., AISTATS 2017), and the running mean of the tail.

    A round from which nobody reported, or only clients without pairs, leaves the weights as they are.

    Args:
        state: What the server knows.
        update: What the cohort sent.
        config: Rounds, and the fraction of them that is the tail.
        tail_from: The first round that may be in the tail.
    """
    params = state.params
    if update.sums and update.sums["weight"] > 0:
        weight = update.sums["weight"]
        params = params | tree.combine(
            lambda old, delta: old + delta / weight, _changed(params, update), below("delta", update.sums)
        )
    average, averaged = state.average, state.averaged
    if state.round >= max(tail_from, config.rounds * (1 - config.average_tail)):
        averaged += 1
        average = tree.combine(lambda mean, new: mean + (new - mean) / averaged, average or params, params)
    return replace(state, params=params, average=average, averaged=averaged, round=state.round + 1)


def _changed(params: Tree, update: CohortUpdate) -> Tree:
    return {name: params[name] for name in below("delta", update.sums)}


def shapes(params: Tree) -> dict[str, tuple[int, ...]]:
    """Name → shape: what changes of these weights must look like."""
    return {name: tuple(leaf.shape) for name, leaf in params.items()}


LOSS = Bounds((), -1e6, 1e6, per="weight", released="kept")
"""A mean loss per pair, in nats. Chosen by us: far above any loss of a training that has not diverged."""


def loss_bounds(*names: str) -> dict[str, Bounds]:
    """The bounds of ``loss.*`` sums."""
    return {f"loss.{name}": LOSS for name in names}


def mean_losses(update: CohortUpdate) -> dict[str, float]:
    """``loss.*`` sums as means over the cohort's pairs."""
    if not update.sums or not update.sums["weight"] > 0:
        return {}
    return {name: float(total / update.sums["weight"]) for name, total in below("loss", update.sums).items()}


def drift(changes: Sequence[Mapping[str, Tensor]]) -> float | None:
    """D_θ = 1 − the mean cosine of two clients' changes: 0 if all point the same way, 1 if they have nothing in common.

    ‖Σ u_i‖² = n + Σ_{i≠j} cos_ij for unit vectors u_i, so n changes need n sums, not n².

    Args:
        changes: The ``delta`` of each client, whatever its length.

    Returns:
        None for fewer than two changes that are not 0.
    """
    total, count = dict[str, Tensor](), 0
    for change in changes:
        length = torch.stack([leaf.norm() for leaf in change.values()]).norm() if change else torch.zeros(())
        if length > 0:
            unit = {name: leaf.double() / length for name, leaf in change.items()}
            total = tree.combine(torch.add, total, unit) if total else unit
            count += 1
    if count < 2:
        return None
    return 1 - (float(sum(leaf.square().sum() for leaf in total.values())) - count) / (count * (count - 1))
