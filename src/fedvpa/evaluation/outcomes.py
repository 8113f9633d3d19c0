"""What one policy answered to one prompt for one user, and what a judge said about it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedvpa.core.errors import DataError
from fedvpa.evaluation.records import load_records, save_records

SCORES = (1.0, 0.5, 0.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One duel of a policy against the base policy.

    Attributes:
        method: The algorithm's name.
        n_clients: How many clients the run trained on.
        seed: The run's seed.
        preference: Whose taste decided: the name of a group, such as ``helpful``.
        user_id: The user whose z steered the policy; empty where the policy takes none.
        seen: Whether that user took part in training; true where the policy takes no z.
        prompt: What was answered; no training saw it.
        response: The policy's answer.
        base_response: The base policy's answer.
        score: 1 if the policy's answer won, 0.5 for a tie, 0 if it lost; None if the verdict is missing.
        utility: What the answer is worth under the preference; None where the judge knows no utilities.
        base_utility: The same for the base policy's answer.
        parsed: Whether the answer is inside the world's grammar; None where there is no grammar.
        base_parsed: The same for the base policy's answer.
        tokens: Length of the answer.
        judge: The judge's name; empty where an earlier release wrote the outcome.
        first_seat: How often the answer that the judge was shown first won, over both orders: 0.5 where it named the
            same answer in both, 1.0 or 0.0 where it named the same place, so that its verdict flipped and counts as a
            tie. None where no order was asked about.

    Raises:
        DataError: For values that cannot be.
    """

    method: str
    n_clients: int
    seed: int
    preference: str
    user_id: str
    seen: bool
    prompt: str
    response: str
    base_response: str
    score: float | None
    utility: float | None
    base_utility: float | None
    parsed: bool | None
    base_parsed: bool | None
    tokens: int
    judge: str = ""
    first_seat: float | None = None

    def __post_init__(self) -> None:
        if self.score is not None and self.score not in SCORES:
            raise DataError(f"{self.name} scores {self.score!r}.", fix="Use 1, 0.5 (tie), 0 or None (missing).")
        for name, own, base in (
            ("utility", self.utility, self.base_utility),
            ("parsed", self.parsed, self.base_parsed),
        ):
            if (own is None) != (base is None):
                raise DataError(f"{self.name} has only one of {name} and base_{name}.", fix="Give both or neither.")
        if not all(math.isfinite(value) for value in (self.utility, self.base_utility) if value is not None):
            raise DataError(f"{self.name} is worth {self.utility} against {self.base_utility}.", fix="Use numbers.")
        if self.first_seat not in (None, *SCORES):
            raise DataError(f"{self.name}: the first seat cannot win {self.first_seat!r} of both orders.")
        if self.first_seat in (0.0, 1.0) and self.score != 0.5:
            raise DataError(f"{self.name} flipped with the order and scores {self.score!r}.", fix="That is a tie.")
        if self.tokens < 0:
            raise DataError(f"{self.name} is {self.tokens} tokens long.", fix="Count them from 0.")
        if not self.user_id and not self.seen:
            raise DataError(f"{self.name} is of an unseen user without a name.", fix="Say whose z it was.")

    @property
    def name(self) -> str:
        """Names the outcome in messages."""
        user = f", user {self.user_id!r}" if self.user_id else ""
        return (
            f"The outcome of {self.method} (N = {self.n_clients}, seed {self.seed}, {self.preference}{user}) "
            f"on {self.prompt!r}"
        )

    @property
    def flipped(self) -> bool | None:
        """Whether the judge named the other answer when both changed places; None where no order was asked about."""
        return None if self.first_seat is None else self.first_seat != 0.5

    @property
    def gain(self) -> float | None:
        """Utility above that of the base policy's answer; None without utilities."""
        return None if self.utility is None or self.base_utility is None else self.utility - self.base_utility


def save_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write one JSON object per outcome and line to ``path``, atomically."""
    save_records(path, outcomes)


def load_outcomes(path: Path) -> list[Outcome]:
    """Read what :func:`save_outcomes` wrote.

    Raises:
        DataError: For a missing file, broken JSON, a missing or unknown key, a value of the wrong type or one that
            cannot be; with file and row.
    """
    return load_records(path, Outcome, "outcome")
