"""What follows from updates that screening rejects: a round goes on without them, or the run is stopped.

One bad client must not end a federation, and a diverged training must not end as if it had been one. So a round all of
whose updates were rejected stops the run if more than ``TOLERATED`` of the clients heard so far were rejected when they
were last heard.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fedvpa.core.errors import TrainingError
from fedvpa.core.progress import say

NOT_FINITE = "is not finite"
"""What is said of a tensor with NaN or infinity."""

OUT_OF_BOUNDS = "and may have"
"""What is said of a statistic that no honest client has."""

ABSURD = "absurd"
"""What is said of a change that is far too long."""

KINDS = {NOT_FINITE: "not finite", OUT_OF_BOUNDS: "out of bounds", ABSURD: "far too long"}
"""What :func:`kinds` calls them."""

TOLERATED = 0.5
"""The largest share of clients whose last update may be rejected in a round that accepts none. Chosen by us: up to half
of the clients may be faulty, as the coordinate median tolerates."""


def check_rejected(
    round_: int,
    answered: Collection[str],
    rejected: Mapping[str, str],
    last: Mapping[str, bool],
    rates: Mapping[str, float],
    *,
    hidden: bool = False,
) -> None:
    """Stop a run whose updates are rejected.

    Args:
        round_: The round's number.
        answered: The clients whose updates came.
        rejected: Client id → why its update was rejected.
        last: Client id → whether its last update was rejected, of all clients heard so far, this round's included.
        rates: Configuration key → value of the learning rates.
        hidden: Whether the message may not tell how many updates came.

    Raises:
        TrainingError: If all updates of the round were rejected, and more than ``TOLERATED`` of ``last`` with them.
    """
    if not answered or len(rejected) < len(answered) or sum(last.values()) <= TOLERATED * len(last):
        return
    reasons = sorted(set(rejected.values()))
    advice = f"The training has diverged: {lower(rates)}"
    if not any(sign in reason for reason in reasons for sign in (NOT_FINITE, OUT_OF_BOUNDS, ABSURD)):
        advice = "Give all clients the same version of fedvpa and the same configuration."
    what = "all updates that came" if hidden else f"all {len(answered)} updates"
    why = kinds(reasons) if hidden else "; ".join(reasons)
    raise TrainingError(f"round {round_}: {what} were rejected ({why}), so nothing is learned. {advice}")


def say_rejected(round_: int, rejected: Mapping[str, str], *, hidden: bool) -> None:
    """Say whose updates were rejected in a round and why; if it is hidden who took part, what was wrong alone.

    Args:
        round_: The round's number.
        rejected: Client id → the reason.
        hidden: Whether nobody may be named and nothing counted.
    """
    if hidden and rejected:
        say(f"round {round_}: updates were rejected ({kinds(rejected.values())})")
    for name, reason in {} if hidden else rejected.items():
        say(f"round {round_}: the update of client {name!r} was rejected: {reason}")


def kinds(reasons: Iterable[str]) -> str:
    """What is wrong with updates, without numbers: sizes and bounds of a sum tell how many clients it is of."""
    found = {
        next((kind for sign, kind in KINDS.items() if sign in reason), "not of the form asked for")
        for reason in reasons
    }
    return ", ".join(sorted(found))


def lower(rates: Mapping[str, float]) -> str:
    """The advice to lower learning rates, given by their keys."""
    return f"lower {' or '.join(f'{key} (now {value:g})' for key, value in rates.items())}."


@dataclass(frozen=True)
class Rejections:
    """How many updates of a run were rejected.

    Attributes:
        updates: Updates that came.
        rejected: Those of them that were rejected.
        rounds: Rounds in which one was.
        clients: The clients that sent one, sorted.
    """

    updates: int
    rejected: int
    rounds: int
    clients: tuple[str, ...]

    @classmethod
    def of(cls, history: Iterable[Mapping[str, Any]]) -> Rejections:
        """Count the lines of a ``history.jsonl``."""
        updates, bad = 0, []
        for line in history:
            updates += len(line["cohort"]) - len(line["dropped"])
            bad.append(tuple(line["rejected"]))
        clients = tuple(sorted({name for names in bad for name in names}))
        return cls(updates, sum(map(len, bad)), sum(1 for names in bad if names), clients)

    def __str__(self) -> str:
        named = ", ".join(map(repr, self.clients[:3])) + (", …" if len(self.clients) > 3 else "")
        return (
            f"WARNING: {self.rejected} of {self.updates} updates were rejected, in {self.rounds} rounds, from "
            f"{len(self.clients)} clients ({named}); the result rests on the others. history.jsonl lists them."
        )
