"""A judge that prefers the response of higher reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.rewards.base import ExactReward, Reward, Score, as_score
from fedvpa.rewards.registry import REWARDS

WORLD_TIE_DIGITS = 9
"""Utilities of the world that agree to so many digits are equal: they are sums of six products of numbers near 1, whose
rounding errors are below 1e-14, while two different utilities of the world differ by at least 1e-2."""


class RewardJudge:
    """Prefers the response of higher reward; equal rewards are a tie, and without both rewards there is no verdict.

    Attributes:
        reward: What scores the responses.

    Args:
        reward: What scores the responses.
        tie_digits: Rewards are equal if their difference is zero after rounding to so many digits behind the point;
            None if only the same number is equal.
    """

    def __init__(self, reward: Reward, tie_digits: int | None = None) -> None:
        self.reward = reward
        self._tie_digits = tie_digits

    @property
    def name(self) -> str:
        """The name of the reward."""
        return self.reward.name

    def compare(self, duels: Sequence[Duel]) -> list[Verdict]:
        """One verdict per duel, in the order of the duels.

        Raises:
            InputError: If the reward cannot score a prompt, or anything under a preference.
        """
        rows: dict[str, list[int]] = {}
        for row, duel in enumerate(duels):
            rows.setdefault(duel.preference, []).append(row)
        verdicts: dict[int, Verdict] = {}
        for preference, own in rows.items():
            items = [(duels[row].prompt, text) for row in own for text in (duels[row].first, duels[row].second)]
            scores = self.reward.score(items, preference)
            for row, first, second in zip(own, scores[::2], scores[1::2], strict=True):
                verdicts[row] = self._verdict(as_score(first), as_score(second))
        return [verdicts[row] for row in range(len(duels))]

    def _verdict(self, first: Score, second: Score) -> Verdict:
        if isinstance(first, str):
            return Verdict(None, first)
        if isinstance(second, str):
            return Verdict(None, second)
        if self._equal(first, second):
            return Verdict(0.5, "equal utility" if isinstance(self.reward, ExactReward) else "equal reward")
        return Verdict(1.0 if first > second else 0.0)

    def _equal(self, first: float, second: float) -> bool:
        if self._tie_digits is None:
            return first == second
        return round(first - second, self._tie_digits) == 0


def make_world_judge(settings: Mapping[str, Any], cache: Path | None) -> RewardJudge:
    """The exact judge of the bundled world, which has no settings and needs no cache.

    Raises:
        ConfigError: For any setting.
    """
    return RewardJudge(REWARDS.get("world")(settings), WORLD_TIE_DIGITS)
