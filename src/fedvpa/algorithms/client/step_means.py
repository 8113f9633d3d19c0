"""Means over the local steps of a round: sums that add up over clients, each step counting alike.

A client sends ``steps``, how many it took, and ``steps.<name>``, the sum of a figure over them. Losses of features are
weighted by pairs instead (``aggregation.py: mean_losses``). Where sums are noised they stay on the client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.server.validation import Bounds
from fedvpa.core.tree import Tree, below

ABSURD_LOSS = 1e6
"""A loss in nats that no training has which has not diverged. Chosen by us."""


def step_sums(figures: Mapping[str, Sequence[float]]) -> Tree:
    """The sums of one client.

    Args:
        figures: Name → a number for each step that it took; all of the same length.
    """
    count = max(map(len, figures.values()), default=0)
    sums = {f"steps.{name}": torch.tensor(float(sum(values))) for name, values in figures.items()}
    return {"steps": torch.tensor(float(count)), **sums}


def step_bounds(steps: int, most: Mapping[str, float]) -> dict[str, Bounds]:
    """What the sums of one client must look like.

    Args:
        steps: Most steps that it takes.
        most: Name → the largest figure of one step; the least is 0.
    """
    sums = {f"steps.{name}": Bounds((), 0.0, steps * value, released="kept") for name, value in most.items()}
    return {"steps": Bounds((), 0.0, float(steps), released="kept"), **sums}


def step_means(update: CohortUpdate) -> dict[str, float]:
    """The means over all steps of a cohort; nothing where nobody took one."""
    steps = update.sums.get("steps", torch.zeros(()))
    found = below("steps", update.sums) if steps > 0 else {}
    return {name: float(total / steps) for name, total in found.items()}
