"""Noise in shares: each node adds its own to its integers, so that the server has no sum without noise.

A tensor of one client becomes integers of a step that is the same in all rounds. Steps are such that noise has the same
standard deviation in all tensors, B steps, where it is as large as the noise multiplier says. Of the nodes of a round
``threshold`` must stay, of which h (:func:`~fedvpa.privacy.thresholds.honest_of`) are counted on. Each node adds
N_Z(0, G²) to each of its integers, with G² ≥ B²/h. So h of them together have at least B, whoever else tells the
server of its noise, and if more stay there is more noise: √(m/h) times as much of m nodes.

The clip must hold for integers. Each client's part is shortened to C/step − √d/2, d being its number of values, and
rounded to the nearest integers, which makes it longer by √d/2 at most: no longer than C/step, as is checked in
integers.

The server adds what is missing to noise of the same variance V in each round, however many nodes there were: the noise
of the released sum tells nothing of the cohort, as amplification by sampling asks. That part hides nothing from the
server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.core.progress import say
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import below
from fedvpa.privacy.discrete_gaussian import MOST_DEVIATION, Random, discrete_gaussian
from fedvpa.privacy.discreteness import FEWEST_STEPS, KERNEL, counted
from fedvpa.privacy.mechanism import CLIP, HALF, LIMIT, WITHIN, part_of
from fedvpa.privacy.quantised import Words
from fedvpa.privacy.thresholds import FEWEST_NODES, honest_of, threshold_of

LARGEST = 2**31 - 1
"""Of an integer of 32 bits with its sign."""

TAILS = 16
"""Room for so many standard deviations of the noise: the sum wraps around with a probability of 1e-56 for each value.
That would spoil the round and cost no privacy. Chosen by us."""

MOST_ROUNDING = 0.1
"""The largest share of a clip that rounding may take. Chosen by us."""


@dataclass(frozen=True, repr=False)
class Shares:
    """How the clients of a round become noised integers: the same on the server and on all nodes.

    Attributes:
        steps: Name → step, of all tensors that leave a node. A tensor without a step stays.
        shapes: Name → shape.
        deviation: B.
        honest_share: ``privacy.honest_share``.
        least: How many nodes take part at least. Nodes without a client of the cohort fill a round up.
        most: How many at most: all noise together is then as large as it always is.
        seeded: Whether nodes draw noise from the run's seed, in a simulation.
    """

    steps: Mapping[str, float]
    shapes: Mapping[str, tuple[int, ...]]
    deviation: int
    honest_share: float
    least: int = FEWEST_NODES
    most: int = FEWEST_NODES
    seeded: bool = False

    __repr__ = short_repr

    @cached_property
    def narrow(self) -> tuple[str, ...]:
        """All tensors, in their order: 32 bits do for each."""
        return tuple(sorted(self.steps))

    @property
    def wide(self) -> tuple[str, ...]:
        """None has 64 bits."""
        return ()

    def size(self, names: tuple[str, ...]) -> int:
        """How many values these tensors have together."""
        return sum(prod(self.shapes[name]) for name in names)

    def step(self, name: str) -> float:
        """The step of a tensor."""
        return self.steps[name]

    def node_deviation(self, threshold: int) -> int:
        """G: the standard deviation of one node's noise, in steps, where so many nodes must stay."""
        honest = honest_of(threshold, self.honest_share)
        return math.isqrt(-(-(self.deviation**2) // honest) - 1) + 1

    def noised(
        self, clients: list[Mapping[str, Tensor]], told: Mapping[str, Tensor], threshold: int, random: Random
    ) -> Words:
        """What a node sends of its clients, before it is masked.

        Args:
            clients: The sums of each client, without any where the node adds noise alone.
            told: What the clients were sent: the norms.
            threshold: How many nodes must stay.
            random: Where the noise comes from.

        Raises:
            DataError: If a tensor is missing or of another shape, or a clip is so short that rounding takes it.
        """
        noise = discrete_gaussian(self.node_deviation(threshold), self.size(self.narrow), random)
        total = sum((self.rounded(sums, told) for sums in clients), noise)
        return Words(total.astype(np.uint32), np.zeros(0, np.uint64))

    def rounded(self, sums: Mapping[str, Tensor], told: Mapping[str, Tensor]) -> NDArray[np.int64]:
        """The integers of one client: every part and statistic within its norm. Zeros if a value is not finite.

        That such a client sent nothing would tell of its pairs; the node says it in its own log.
        """
        values = {name: self._values(name, sums) for name in self.narrow}
        if not all(np.isfinite(leaf).all() for leaf in values.values()):
            say("an update is not finite, and counts as none: only noise is sent for it")
            return np.zeros(self.size(self.narrow), np.int64)
        found = dict[str, NDArray[np.int64]]()
        for limit, names in self._groups(told):
            ends = np.cumsum([len(values[name]) for name in names])
            whole = within(np.concatenate([values[name] for name in names]), limit / self.steps[names[0]])
            found |= dict(zip(names, np.split(whole, ends[:-1]), strict=True))
        return np.concatenate([np.zeros(0, np.int64), *(found[name] for name in self.narrow)])

    def _values(self, name: str, sums: Mapping[str, Tensor]) -> NDArray[np.float64]:
        if name not in sums or tuple(sums[name].shape) != tuple(self.shapes[name]):
            raise DataError(f"the update has no {name} of shape {tuple(self.shapes[name])}, as the server asks for")
        leaf: NDArray[np.float64] = sums[name].detach().double().cpu().numpy().reshape(-1)
        return leaf / self.steps[name]

    def _groups(self, told: Mapping[str, Tensor]) -> list[tuple[float, list[str]]]:
        """What is shortened together, with its norm: the tensors of a part, and each statistic by itself."""
        clips, limits = below(CLIP, told), below(LIMIT, told)
        parts = dict[str, list[str]]()
        single = list[tuple[float, list[str]]]()
        for name in self.narrow:
            leaf = name.removeprefix("delta.")
            if leaf != name:
                parts.setdefault(part_of(leaf, clips), []).append(name)
            else:
                single.append((HALF if name.startswith(f"{WITHIN}.") else float(limits[name]), [name]))
        return [*((float(clips[part]), names) for part, names in parts.items()), *single]


def within(values: NDArray[np.float64], longest: float) -> NDArray[np.int64]:
    """A vector as integers that are no longer than ``longest``.

    Args:
        values: In steps.
        longest: The norm, in steps.

    Raises:
        DataError: If rounding could take all of that length.
    """
    # Roundings of the norm itself are far below a part in 10^9.
    room = longest * (1 - 1e-9) - math.sqrt(len(values)) / 2
    if room <= 0:
        raise DataError(f"{len(values)} values within {longest:.3g} steps: rounding takes all of it")
    length = float(np.linalg.norm(values))
    found = np.rint(values * (room / length) if length > room else values).astype(np.int64)
    if float(int(np.dot(found, found))) > longest**2:
        raise ArithmeticError("a vector is longer after rounding than it may be")
    return found


@dataclass(frozen=True)
class Sizes:
    """What does not depend on the round.

    Attributes:
        deviation: B.
        variance: V, in steps²: of all noise in a released sum, in every round.
        least: How many nodes a round has at least: half of the expected cohort, if there are so many. With fewer, one
            node more changes the noise by more. Chosen by us.
    """

    deviation: int
    variance: int
    least: int

    @property
    def times(self) -> float:
        """The standard deviation of all noise over that which the noise multiplier says."""
        return math.sqrt(self.variance) / counted(self.deviation)

    def missing(self, variance: int) -> float:
        """What the server adds to the nodes' noise of a variance in steps², in deviations of the noise multiplier's."""
        return math.sqrt(self.variance - variance) / counted(self.deviation)


def sized(
    reaches: Mapping[str, tuple[float, int]],
    clients: int,
    nodes: int,
    cohort: float,
    secure_share: float,
    honest: float,
) -> Sizes:
    """B and V for a federation: as fine as 32 bits allow.

    Args:
        reaches: Part or statistic → the longest of one client over the standard deviation of the noise, and its number
            of values.
        clients: How many clients may be in a sum.
        nodes: How many nodes there are.
        cohort: The expected number of clients of a round.
        secure_share: ``engine.secure_share``.
        honest: ``privacy.honest_share``.

    Raises:
        ConfigError: If 32 bits are too few for so many clients, or so many values under so much noise.
    """
    least = min(nodes, max(FEWEST_NODES, math.ceil(cohort / 2)))
    thresholds = {count: threshold_of(count, secure_share) for count in range(least, nodes + 1)}
    most = max(count / honest_of(threshold, honest) for count, threshold in thresholds.items())
    farthest = max(reach for reach, _ in reaches.values())
    deviation = min(MOST_DEVIATION, int(LARGEST / (clients * farthest + TAILS * 1.1 * math.sqrt(most))))
    plain = Shares({}, {}, max(deviation, 1), honest)
    each = {count: plain.node_deviation(threshold) for count, threshold in thresholds.items()}
    if min(each.values()) < FEWEST_STEPS:
        raise ConfigError(
            f"the noise of one node has {min(each.values())} steps of integers of 32 bits, with {clients:,} clients, "
            f"and {FEWEST_STEPS} are needed.",
            fix="Give more noise, or privacy.noise=server.",
            where="configuration key 'privacy.noise'",
        )
    for name, (reach, values) in reaches.items():
        if math.sqrt(values) / 2 > MOST_ROUNDING * reach * deviation:
            raise ConfigError(
                f"rounding to integers of 32 bits takes more than {MOST_ROUNDING:.0%} of what a client may send of "
                f"{name!r}, which has {values:,} values.",
                fix="Give less noise, fewer weights, or privacy.noise=server.",
                where="configuration key 'privacy.noise'",
            )
    variance = max(count * one**2 for count, one in each.items()) + 2 * KERNEL**2
    return Sizes(deviation, variance, least)
