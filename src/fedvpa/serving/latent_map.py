"""The plane in which the page draws z: the one in which the prototypes lie farthest apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Landmark:
    """A prototype.

    Attributes:
        name: The groups that it stands for, or ``prototype`` and its number.
        z: Where it is, k numbers.
    """

    name: str
    z: Sequence[float]


@dataclass(frozen=True)
class LatentMap:
    """A projection of z: a point of the plane is (a₁·(z − c), a₂·(z − c)), and the prototypes lie within [−1, 1].

    Attributes:
        centre: c, the mean of the prototypes, k numbers.
        axes: a₁ and a₂, orthogonal and of equal length, k numbers each.
        prototypes: What there is to see.
    """

    centre: Sequence[float]
    axes: tuple[Sequence[float], Sequence[float]]
    prototypes: Sequence[Landmark]


def latent_map(
    prototypes: Sequence[Sequence[float]], preferences: Mapping[str, Sequence[float]] | None = None
) -> LatentMap | None:
    """The map of a policy: the first two principal axes of its prototypes.

    Two prototypes span one axis; the other one is then orthogonal to it, along the coordinate that it has least of.

    Args:
        prototypes: Their z, each of k numbers.
        preferences: Group → its z; a prototype is called by the groups that have its very z.

    Returns:
        None with fewer than two prototypes, with all of them in one place, or with fewer than two numbers in z.
    """
    points = np.asarray(prototypes, dtype=np.float64)
    if len(points) < 2 or points.shape[1] < 2:
        return None
    centre = points.mean(0)
    _, spread, directions = np.linalg.svd(points - centre, full_matrices=False)
    if spread[0] <= 1e-9:
        return None
    first = _signed(directions[0])
    flat = len(spread) < 2 or spread[1] <= 1e-9 * spread[0]
    second = _beside(first) if flat else _signed(directions[1])
    axes = np.stack([first, second])
    axes /= np.abs((points - centre) @ axes.T).max()
    groups = preferences or {}
    named = [
        ", ".join(group for group, z in groups.items() if list(z) == list(own)) or f"prototype {number}"
        for number, own in enumerate(prototypes)
    ]
    landmarks = [Landmark(name, list(map(float, own))) for name, own in zip(named, prototypes, strict=True)]
    return LatentMap(centre.tolist(), (axes[0].tolist(), axes[1].tolist()), landmarks)


def _signed(direction: Vector) -> Vector:
    """A direction whose largest number is positive, since either sign is as good and a map should not flip."""
    return direction * np.sign(direction[np.abs(direction).argmax()])


def _beside(direction: Vector) -> Vector:
    """A unit vector that is orthogonal to a direction."""
    other = np.zeros_like(direction)
    other[np.abs(direction).argmin()] = 1.0
    other -= direction * (other @ direction)
    found: Vector = other / np.linalg.norm(other)
    return found
