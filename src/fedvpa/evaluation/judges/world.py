"""The exact judge of the bundled world: utilities are known, so nothing is estimated and nothing is missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.rewards.world import utilities

TIE_DIGITS = 9
"""Utilities that agree to so many digits are equal: they are sums of six products of numbers near 1, whose rounding
errors are below 1e-14, while two different utilities of the world differ by at least 1e-2."""


class WorldJudge:
    """Prefers the response of higher utility; equal utilities are a tie.

    Text outside the grammar is judged too: it is worth less than any text inside.
    """

    @property
    def name(self) -> str:
        """``world``."""
        return "world"

    def compare(self, duels: Sequence[Duel]) -> list[Verdict]:
        """One verdict per duel, in the order of the duels.

        Raises:
            ConfigError: If the world has no such preference.
            DataError: If a prompt is not one of the world's.
        """
        return [_verdict(duel) for duel in duels]


def _verdict(duel: Duel) -> Verdict:
    values, _ = utilities([(duel.prompt, duel.first), (duel.prompt, duel.second)], duel.preference)
    lead = np.round(values[0] - values[1], TIE_DIGITS)
    if lead == 0:
        return Verdict(0.5, "equal utility")
    return Verdict(1.0 if lead > 0 else 0.0)
