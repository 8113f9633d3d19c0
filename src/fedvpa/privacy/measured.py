"""What noise cost on the bundled world, as ``benchmarks/privacy_world.py`` measured it, for a plan to quote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("world.json")
"""Where the benchmark writes; there is no file until it was run."""


@dataclass(frozen=True)
class Measured:
    """One setting of the bundled world, trained with privacy and without.

    Attributes:
        method: What was trained.
        clients: N.
        cohort: The expected number of users of a round.
        rounds: T.
        epsilon: ``epsilon_released``.
        delta: δ.
        noise_multiplier: σ.
        seeds: How many trainings of each kind.
        gap_closed: (accuracy − global) / (oracle − global), with global and oracle without privacy; mean over seeds.
        gap_closed_without: The same of the method without privacy.
        seconds: Of a round, with privacy.
        seconds_without: Of a round, without.
    """

    method: str
    clients: int
    cohort: int
    rounds: int
    epsilon: float
    delta: float
    noise_multiplier: float
    seeds: int
    gap_closed: float
    gap_closed_without: float
    seconds: float
    seconds_without: float

    @property
    def relative_noise(self) -> float:
        """σ over the expected cohort, as of a plan."""
        return self.noise_multiplier / self.cohort


def measurements(path: Path = TABLE) -> tuple[Measured, ...]:
    """All that was measured; nothing where the benchmark was not run."""
    if not path.is_file():
        return ()
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return tuple(Measured(**row) for row in rows)


def nearest(rows: Sequence[Measured], method: str, relative_noise: float, rounds: int) -> Measured | None:
    """What was measured of a method with no less noise on the mean change, and of that the least.

    None where every setting that was measured has less noise: nothing is extrapolated.
    """
    noisier = [row for row in rows if row.method == method and row.relative_noise >= relative_noise * (1 - 1e-3)]
    return min(noisier, key=lambda row: (row.relative_noise, abs(row.rounds - rounds)), default=None)
