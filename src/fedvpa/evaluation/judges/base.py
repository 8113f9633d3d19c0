"""What every judge is: two responses in, a verdict out, and a missing verdict stays missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fedvpa.core.errors import ConfigError, DataError, JudgeError
from fedvpa.data.schema import Text
from fedvpa.rewards.base import ExactReward

DEFAULT_MISSING_LIMIT = 0.05
"""The share of verdicts that may be missing. Chosen by us: so few can move a win rate by five points at the very most,
which is the smallest difference that the targets of this project speak of."""

SHOWN_REASONS = 3


@dataclass(frozen=True, slots=True)
class Duel:
    """Two responses to one prompt.

    Attributes:
        prompt: What both answer: a string, or the messages of a conversation.
        first: One response.
        second: The other one.
        preference: Whose taste decides: the name of a group, such as ``helpful``.
    """

    prompt: Text
    first: str
    second: str
    preference: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge said about a duel.

    Attributes:
        score: 1.0 if the first response wins, 0.0 if the second does, 0.5 for a tie; None if the verdict is missing.
        reason: Why the verdict is missing, or what kind of tie it is; else empty.
        flipped: Whether the judge changed its mind when the two responses changed places; always a tie.
        first_seat: How often the response that was shown first won, over both orders: 0.5 for a judge that names the
            same response in both, 1.0 or 0.0 for one that names the same place; None where no order was asked about.
    """

    score: float | None
    reason: str = ""
    flipped: bool = False
    first_seat: float | None = None

    def __post_init__(self) -> None:
        if self.score not in (None, 0.0, 0.5, 1.0):
            raise DataError(f"A verdict cannot be {self.score!r}.", fix="Use 1.0, 0.0, 0.5 (tie) or None (missing).")
        if self.score is None and not self.reason:
            raise DataError("A missing verdict says nothing about why.", fix="Give the reason.")
        if self.first_seat not in (None, 0.0, 0.5, 1.0):
            raise DataError(f"The first seat cannot win {self.first_seat!r} of two orders.", fix="Use 0, 0.5 or 1.")
        if self.flipped and self.score != 0.5:
            raise DataError(f"A verdict of {self.score!r} cannot be flipped.", fix="Orders that disagree are a tie.")


class Judge(Protocol):
    """Compares responses. A judge that cannot say gives a missing verdict; it never asks another judge.

    A judge that decides by a reward has it as its attribute ``reward``; see :func:`exact_reward_of`.
    """

    @property
    def name(self) -> str:
        """Names the judge in tables."""

    def compare(self, duels: Sequence[Duel]) -> list[Verdict]:
        """One verdict per duel, in the order of the duels.

        Raises:
            InputError: If a duel or its preference cannot be judged by this judge at all.
            JudgeError: If the judge as a whole is out of order.
        """


def exact_reward_of(judge: Judge) -> ExactReward | None:
    """The reward that knows the utilities that a judge decides by; None if the judge has none, or an estimate."""
    reward = getattr(judge, "reward", None)
    return reward if isinstance(reward, ExactReward) else None


def check_missing(verdicts: Sequence[Verdict], limit: float = DEFAULT_MISSING_LIMIT) -> None:
    """Check that few enough verdicts are missing for a win rate to mean something.

    Args:
        verdicts: All verdicts that the win rate would be made of.
        limit: The largest share of missing verdicts that passes, in [0, 1].

    Raises:
        JudgeError: If more are missing; with the most frequent reasons.
        DataError: If there are no verdicts.
        ConfigError: If the limit is no share.
    """
    if not 0 <= limit <= 1:
        raise ConfigError(f"The limit of missing verdicts is a share, not {limit}.", fix="Use a number from 0 to 1.")
    if not verdicts:
        raise DataError("There are no verdicts.", fix="Judge at least one pair of responses.")
    reasons = Counter(verdict.reason for verdict in verdicts if verdict.score is None)
    missing = reasons.total()
    if missing <= limit * len(verdicts):
        return
    listed = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(SHOWN_REASONS))
    raise JudgeError(
        f"{missing} of {len(verdicts)} verdicts are missing, more than the {limit:.1%} allowed. Reasons: {listed}"
        f"{'; …' if len(reasons) > SHOWN_REASONS else ''}.",
        fix="Remove the cause and judge again; answers in a cache are not asked for twice.",
    )
