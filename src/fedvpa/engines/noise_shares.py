"""A round whose noise comes from the nodes: how their integers are made, and what the server does with the sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import torch

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.server.limits import Guard
from fedvpa.algorithms.server.robust import Aggregate, Part
from fedvpa.core.short_repr import short_repr
from fedvpa.engines.private import Ledger, Release
from fedvpa.privacy.discreteness import counted
from fedvpa.privacy.mechanism import WITHIN, part_of
from fedvpa.privacy.shares import Shares, Sizes, sized


@dataclass(frozen=True, repr=False)
class NoiseShares:
    """The noise of one release.

    Attributes:
        release: Before its sum is there.
        secure_share: ``engine.secure_share``.
        clients: How many clients there are.
        nodes: How many nodes they are on.
    """

    release: Release
    secure_share: float
    clients: int
    nodes: int

    __repr__ = short_repr

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of what leaves a node: what noise hides, and no weight or count beside it."""
        release = self.release
        found = {f"delta.{name}": tuple(shape) for name, shape in release.expected.deltas.items()}
        found |= {name: tuple(release.expected.sums[name].shape) for name in release.shape.limits}
        bits = release.shape.parts if release.shape.adaptive else ()
        return found | {f"{WITHIN}.{part}": () for part in bits}

    @cached_property
    def sizes(self) -> Sizes:
        """What does not depend on the round.

        Raises:
            ConfigError: As of :func:`~fedvpa.privacy.shares.sized`.
        """
        shape, privacy = self.release.shape, self.release.privacy
        # In units of the clips, which change from round to round.
        unit = shape.deviations({part: torch.ones(()) for part in shape.parts}, privacy.terms.noise_multiplier)
        values = dict.fromkeys(unit, 0)
        for name, size in self.shapes.items():
            values[self._part(name)] += prod(size)
        reaches = tuple(
            (name, (1.0 if name in shape.parts else shape.statistics[name]) / deviation, values[name])
            for name, deviation in unit.items()
        )
        return _sized(
            reaches, self.clients, self.nodes, privacy.terms.cohort, self.secure_share, privacy.config.honest_share
        )

    @property
    def shares(self) -> Shares:
        """How clients become integers in this round."""
        privacy, sizes = self.release.privacy, self.sizes
        deviations = self.release.shape.deviations(self.release.clips, privacy.terms.noise_multiplier)
        steps = {name: deviations[self._part(name)] / counted(sizes.deviation) for name in self.shapes}
        config = privacy.config
        return Shares(
            steps, self.shapes, sizes.deviation, config.honest_share, sizes.least, self.nodes, seeded=config.seeded
        )

    def count(self) -> None:
        """Write down that the sum is about to be unmasked."""
        self.release.privacy.unmasked.note(self.release.ledger.releases)

    def noised(self, update: CohortUpdate, variance: int, round_: int) -> tuple[CohortUpdate, Ledger]:
        """The sum that the nodes noised, with what the server adds to it; and what is known after it.

        Args:
            update: The sum; of nothing where nobody was asked.
            variance: Of the noise in it, in steps²: where nobody was asked all of it is the server's.
            round_: The round.
        """
        multiplier = self.release.privacy.terms.noise_multiplier * self.sizes.missing(variance)
        return self.release.noised(update, round_, multiplier)

    def _part(self, name: str) -> str:
        leaf = name.removeprefix("delta.")
        return name if leaf == name else part_of(leaf, self.release.shape.parts)


def as_it_is(parts: Sequence[Part], guard: Guard) -> Aggregate:
    """The one sum over all nodes, or none. It is noised, and noise makes it longer than its clients may make it."""
    update = parts[0].update if parts else CohortUpdate({})
    return Aggregate(update, {}, guard, clip_norm=None, max_weight=1.0)


@lru_cache(maxsize=64)
def _sized(
    reaches: tuple[tuple[str, float, int], ...],
    clients: int,
    nodes: int,
    cohort: float,
    secure_share: float,
    honest: float,
) -> Sizes:
    return sized(
        {name: (reach, values) for name, reach, values in reaches}, clients, nodes, cohort, secure_share, honest
    )
