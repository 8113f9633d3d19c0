"""The Gaussian mechanism on the sum of a round: what one client may add, and what noise hides it.

A client's update is one vector of parts. Each part is shortened to a norm of its own,

    part of the weights' change      C_p       told with the broadcast, fixed or adapted
    statistic                        b_j       of its bounds

and counts with weight 1, whatever its number of pairs. In units in which part p has norm at most a_p and statistic j at
most a_j = a/√J, the whole has norm at most S = √(Σ a_p² + a²). The server adds N(0, (σ S)² I) in these units to the sum
of the cohort, and takes the *expected* size of the cohort for its size, so the number of those who came is no release.
That is the subsampled Gaussian mechanism of sensitivity S and noise multiplier σ (Abadi et al., arXiv 1607.00133; for
users McMahan et al., arXiv 1710.06963).

``clip=auto`` follows a quantile of the norms by one noised bit for each part (Andrew et al., arXiv 1905.03871,
algorithm 1): b = ½ for a client whose part is within C_p, else −½, and C_p ← C_p exp(−η (mean b + ½ − quantile)). The
bits are statistics like others, so they are paid for in S.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from fedvpa.core.tree import Tree, below, prefixed

CLIP = "privacy.clip"
"""In a broadcast: ``privacy.clip.<part>``, C_p of each part of the weights' change; ``all`` is the whole change."""

LIMIT = "privacy.limit"
"""In a broadcast: ``privacy.limit.<name>``, b_j of each statistic that may leave a client."""

WITHIN = "privacy.within"
"""In the sums of an update: ``privacy.within.<part>``, ½ for a client whose part is no longer than C_p, else −½."""

WHOLE = "all"
"""The part that is the whole change."""

HALF = 0.5


@dataclass(frozen=True)
class Shape:
    """Which parts and statistics the vector of one client has.

    Attributes:
        parts: Part of the weights' change → a_p; ``all`` alone, or names that the weights' names are or start with.
        limits: Statistic → b_j.
        share: a.
        adaptive: Whether clients report their bits.
    """

    parts: Mapping[str, float]
    limits: Mapping[str, float]
    share: float
    adaptive: bool

    @property
    def statistics(self) -> dict[str, float]:
        """All statistics, the bits of ``clip=auto`` among them, with b_j."""
        bits = {f"{WITHIN}.{part}": HALF for part in self.parts} if self.adaptive else {}
        return {**self.limits, **bits}

    @property
    def sensitivity(self) -> float:
        """S: the most that one client can change the sum, in the units of the parts."""
        statistics = self.share**2 if self.statistics else 0.0
        return math.sqrt(sum(share**2 for share in self.parts.values()) + statistics)

    def told(self, clips: Mapping[str, Tensor]) -> Tree:
        """What clients are told: scalars to be added to the broadcast."""
        limits = {name: torch.tensor(limit) for name, limit in self.limits.items()}
        return prefixed(CLIP, dict(clips)) | prefixed(LIMIT, limits)

    def deviations(self, clips: Mapping[str, Tensor], noise_multiplier: float) -> dict[str, float]:
        """Part or statistic → standard deviation of the noise on each of its elements, in the sum."""
        scale, found = noise_multiplier * self.sensitivity, dict[str, float]()
        for part, share in self.parts.items():
            found[part] = scale * float(clips[part]) / share
        each = self.share / math.sqrt(max(len(self.statistics), 1))
        return found | {name: scale * limit / each for name, limit in self.statistics.items()}


def part_of(leaf: str, parts: Mapping[str, object]) -> str:
    """The part that a weight of this name belongs to.

    Raises:
        KeyError: If it belongs to none: it would leave without noise.
    """
    for part in parts:
        if part == WHOLE or leaf == part or leaf.startswith(f"{part}."):
            return part
    raise KeyError(leaf)


def is_told(received: Mapping[str, Tensor]) -> bool:
    """Whether a client was told to bound its update."""
    return any(name.startswith(f"{CLIP}.") for name in received)


def bounded(sums: Mapping[str, Tensor], received: Mapping[str, Tensor], by_weight: frozenset[str]) -> Tree:
    """What leaves a client: weight 1, every part and statistic within its norm, nothing that has none.

    Args:
        sums: What the method made of this client's pairs; ``weight`` 0 for a client without any.
        received: What the client was sent.
        by_weight: The statistics that are counted by weight.

    Returns:
        ``weight``, ``delta.*``, the statistics that have a limit, and a bit for each part.
    """
    clips, weight = below(CLIP, received), sums["weight"]
    present = (weight > 0).to(weight.dtype)
    each = present / weight if weight > 0 else present
    deltas = {name: leaf * each for name, leaf in below("delta", sums).items()}
    lengths = _lengths(deltas, clips)
    bits = {part: present * torch.where(lengths[part] <= clip, HALF, -HALF) for part, clip in clips.items()}
    own = {name: sums[name] * (each if name in by_weight else present) for name in below(LIMIT, received)}
    return shortened({"weight": present} | prefixed("delta", deltas) | own, received) | prefixed(WITHIN, bits)


def shortened(sums: Mapping[str, Tensor], received: Mapping[str, Tensor], clients: int = 1) -> Tree:
    """The sums of so many clients with every part and statistic no longer than so many clients can make it.

    A client does it before anything leaves it, and the server does it again, since what a client sends is a claim.

    Args:
        sums: ``weight``, ``delta.*`` and statistics.
        received: What the clients were sent.
        clients: How many they are.
    """
    clips, limits, deltas = below(CLIP, received), below(LIMIT, received), below("delta", sums)
    factors = {part: _factor(length, clients * clips[part]) for part, length in _lengths(deltas, clips).items()}
    kept = {name: leaf * factors[part_of(name, clips)] for name, leaf in deltas.items()}
    short = {name: sums[name] * _factor(sums[name].norm(), clients * limits[name]) for name in limits}
    return {**sums, **prefixed("delta", kept), **short}


def largest_told(names: Collection[str], received: Mapping[str, Tensor]) -> dict[str, float]:
    """Name → the largest absolute value of an element of what leaves one client that was told these norms.

    Args:
        names: ``weight``, ``delta.*``, statistics with a limit, and bits.
        received: What the client was sent.
    """
    clips, limits = below(CLIP, received), below(LIMIT, received)
    norms = {"weight": 1.0} | {f"{WITHIN}.{part}": HALF for part in clips}
    norms |= {name: float(limit) for name, limit in limits.items()}
    leaves = {name: name.removeprefix("delta.") for name in names if name.startswith("delta.")}
    return {name: float(clips[part_of(leaves[name], clips)]) if name in leaves else norms[name] for name in names}


def noised(
    sums: Mapping[str, Tensor],
    shape: Shape,
    clips: Mapping[str, Tensor],
    noise_multiplier: float,
    generator: Generator,
) -> Tree:
    """The sum of a cohort with the noise of one release, each tensor in the order of its name.

    Args:
        sums: ``delta.*`` and statistics of the cohort, added up.
        shape: What one client's vector has.
        clips: C_p of each part, as clients were told.
        noise_multiplier: σ.
        generator: From a secret key.
    """
    deviation = shape.deviations(clips, noise_multiplier)
    released = dict[str, Tensor]()
    for name in sorted(sums):
        if name == "weight":
            continue
        leaf = name.removeprefix("delta.")
        scale = deviation[part_of(leaf, shape.parts) if leaf != name else name]
        drawn = torch.from_numpy(np.asarray(generator.standard_normal(tuple(sums[name].shape)) * scale))
        released[name] = (sums[name].double() + drawn).to(sums[name].dtype)
    return released


def adapted(
    clips: Mapping[str, Tensor], released: Mapping[str, Tensor], expected: float, quantile: float, rate: float
) -> Tree:
    """C_p after a round, from its noised bits.

    Args:
        clips: As clients were told.
        released: The noised sums.
        expected: The expected number of clients.
        quantile: The share of changes that should be within C_p.
        rate: η.
    """
    bits = below(WITHIN, released)
    share = {part: (bits[part] / expected + HALF).clamp(0.0, 1.0) for part in clips}
    return {part: clip * torch.exp(-rate * (share[part] - quantile)) for part, clip in clips.items()}


def _lengths(deltas: Mapping[str, Tensor], clips: Mapping[str, Tensor]) -> dict[str, Tensor]:
    squares = {part: torch.zeros(()) for part in clips}
    for name, leaf in deltas.items():
        squares[part_of(name, clips)] = squares[part_of(name, clips)] + leaf.square().sum()
    return {part: value.sqrt() for part, value in squares.items()}


def _factor(length: Tensor, most: Tensor) -> Tensor:
    """What a vector is multiplied by, so that it is no longer than ``most``."""
    return most / length if length > most else torch.ones(())
