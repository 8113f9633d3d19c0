"""Users that trained or not × prompts that trained or not: one number for each method and cell.

A cell of *seen users* has the clients that trained; of *unseen users* those whose pairs only ever gave context. *Seen
prompts* are test pairs whose prompt (or pair, where pairs are held out) other clients train on, and the tested one does
not; only the data's own split may put the same prompt into a client's training and test. *Unseen prompts* are those
that nobody trains on. No tested pair gives context or trains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from fedvpa.evaluation.client_sample import ClientSample
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate, estimate
from fedvpa.evaluation.scores import ClientScore
from fedvpa.evaluation.student import Interval
from fedvpa.evaluation.summaries import SHARE, JsonResult, by_condition, ends_of, method_ends_of, value_of

Kind = Literal["seen", "unseen"]

CELLS: tuple[tuple[Kind, Kind], ...] = (
    ("seen", "seen"),
    ("seen", "unseen"),
    ("unseen", "seen"),
    ("unseen", "unseen"),
)
"""(users, prompts), in the order of the table."""

NO_UNSEEN_USERS = "every user trains: partition.unseen sets some apart"
NO_SEEN_PROMPTS = "no test pair has a prompt that another user trains on: users share too few prompts"
NO_UNSEEN_PROMPTS = "every test pair has a prompt that some user trains on"


@dataclass(frozen=True, slots=True)
class FourWayRow(JsonResult):
    """One method in one cell.

    Attributes:
        method: The algorithm's name.
        n_clients: How many clients the runs trained on.
        users: Whether the users trained: ``seen`` or ``unseen``.
        prompts: Whether the prompts trained.
        mean: Accuracy, mean over users, then over seeds; None of an empty cell.
        ci95: Its interval, of these trained models.
        method_ci95: Its interval over training seeds too.
        clients: Users with a pair in the cell, counted once per seed.
        pairs: Their test pairs, counted once per seed.
        empty: Why there is none; None where there is.
    """

    method: str
    n_clients: int
    users: Kind
    prompts: Kind
    mean: float | None
    ci95: Interval | None
    method_ci95: Interval | None
    clients: int
    pairs: int
    empty: str | None


def four_way_rows(
    scores: Mapping[Kind, Iterable[ClientScore]],
    unseen_users: bool,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    *,
    same_users: bool = False,
) -> tuple[FourWayRow, ...]:
    """Four rows for each method and number of clients.

    Args:
        scores: Kind of prompts → scores of seen and unseen users on test pairs of that kind.
        unseen_users: Whether there are any, with or without a test pair.
        bootstrap: How intervals are computed.
        same_users: As of :func:`fedvpa.evaluation.accuracy_tables.comparison`.
    """
    by_prompts = {prompts: by_condition(found) for prompts, found in scores.items()}
    conditions = dict.fromkeys(condition for found in by_prompts.values() for condition in found)
    rows = []
    for condition in sorted(conditions, key=lambda one: one.n_clients):
        for users, prompts in CELLS:
            found = by_prompts.get(prompts, {}).get(condition, [])
            own = [score for score in found if score.seen == (users == "seen")]
            sample = ClientSample.of(own, same_users=same_users)
            value: Estimate | None = None if sample is None else estimate(sample, bootstrap, SHARE)
            rows.append(
                FourWayRow(
                    *condition,
                    users,
                    prompts,
                    value_of(value),
                    ends_of(value),
                    method_ends_of(value),
                    clients=len(own),
                    pairs=sum(score.total for score in own),
                    empty=None if own else _why(users, prompts, unseen_users),
                )
            )
    return tuple(rows)


def _why(users: Kind, prompts: Kind, unseen_users: bool) -> str:
    if users == "unseen" and not unseen_users:
        return NO_UNSEEN_USERS
    return NO_SEEN_PROMPTS if prompts == "seen" else NO_UNSEEN_PROMPTS
