"""Which variances a client of a hierarchical prior tries: its candidate's own, and the neighbours on a grid."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

HERE = 1
"""The place of a candidate's own variance among the three that a client tries: the one before, its own, the one after.
On twelve deals of HH-RLHF objectives that no table has, trying the whole grid in each round ends at the same variance
and takes longer."""


def neighbours(place: Int[Tensor, "*clients K"], grid: Float[Tensor, " V"]) -> Float[Tensor, "*clients K 3"]:
    """The variance at a place, with those before and after it; at an end of the grid, the end itself for them."""
    return grid[(place.unsqueeze(-1) + torch.tensor([-1, 0, 1])).clamp(0, len(grid) - 1)]


def on_the_grid(
    near: Float[Tensor, "*clients K 3"], place: Int[Tensor, "*clients K"], length: int
) -> Float[Tensor, "*clients K {length}"]:
    """The evidence of three neighbours as that of the whole grid: farther variances have that of the nearest of them.

    The largest evidence is so where a step of σ² should go, and one step further is tried the next time.
    """
    steps = torch.arange(length) - place.unsqueeze(-1)
    return near.gather(-1, steps.clamp(-1, 1) + HERE)
