"""Users whom training never saw, by the number of labelled pairs that they give, each method against ``global``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedvpa.evaluation.difference_rows import adjusted_over_methods, gains_over_global
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate
from fedvpa.evaluation.scores import ClientScore
from fedvpa.evaluation.student import Interval
from fedvpa.evaluation.summaries import JsonResult, by_condition


@dataclass(frozen=True, slots=True)
class ShotRow(JsonResult):
    """One method with so many pairs of each unseen user.

    Attributes:
        method: The algorithm's name.
        n_clients: How many clients the runs trained on.
        context_pairs: Labelled pairs that each user gave.
        clients: Users that have so many, counted once per seed.
        mean: Accuracy on their other pairs, mean over users, then over seeds.
        ci95: Its interval, of these trained models.
        method_ci95: Its interval over training seeds too.
        difference: Accuracy less that of ``global`` on the same pairs; None of ``global`` and where it was not run.
        p_value: Two-sided, of these trained models.
        p_holm: The same, adjusted over all rows of methods that are no yardsticks; None of yardsticks.
        method_p_value: Two-sided, over training seeds too.
        method_p_holm: The same, adjusted.
    """

    method: str
    n_clients: int
    context_pairs: int
    clients: int
    mean: float
    ci95: Interval | None
    method_ci95: Interval | None
    difference: Estimate | None
    p_value: float | None
    p_holm: float | None
    method_p_value: float | None
    method_p_holm: float | None


def shot_rows(
    scores: Mapping[int, Iterable[ClientScore]],
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    *,
    same_users: bool = False,
) -> tuple[ShotRow, ...]:
    """One row for each number of clients, of pairs, and method.

    Args:
        scores: Number of pairs → scores; those of seen clients are ignored.
        bootstrap: How intervals are computed.
        same_users: As of :func:`fedvpa.evaluation.accuracy_tables.comparison`.

    Raises:
        DataError: If two methods were scored on different users.
    """
    rows = []
    for count in sorted(scores):
        unseen = by_condition(score for score in scores[count] if not score.seen)
        gains = gains_over_global(unseen, bootstrap, same_users=same_users)
        rows += [ShotRow(*condition, count, **fields) for condition, fields in gains]
    rows.sort(key=lambda row: row.n_clients)
    return adjusted_over_methods(rows)
