"""What each true group gains over ``global``: whether a minority is served, and what that costs the majority."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fedvpa.evaluation.difference_rows import adjusted_over_methods, gains_over_global
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate
from fedvpa.evaluation.scores import ClientScore, control_of
from fedvpa.evaluation.student import Interval
from fedvpa.evaluation.summaries import (
    BAYES,
    JsonResult,
    by_condition,
)


@dataclass(frozen=True, slots=True)
class GroupRow(JsonResult):
    """One method and one true group.

    Attributes:
        method: The algorithm's name.
        n_clients: How many clients the runs trained on, of all groups.
        group: The true group.
        clients: Seen clients of the group, counted once per seed.
        mean: Accuracy on their own test pairs, mean over clients, then over seeds.
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
    group: str
    clients: int
    mean: float
    ci95: Interval | None
    method_ci95: Interval | None
    difference: Estimate | None
    p_value: float | None
    p_holm: float | None
    method_p_value: float | None
    method_p_holm: float | None


def group_rows(
    scores: Iterable[ClientScore], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP, *, same_users: bool = False
) -> tuple[GroupRow, ...]:
    """One row for each number of clients, group and method; empty where there are no two groups.

    Args:
        scores: Of a comparison; controls, unseen clients and those without a group are ignored.
        bootstrap: How intervals are computed.
        same_users: As of :func:`fedvpa.evaluation.accuracy_tables.comparison`.

    Raises:
        DataError: If two methods were scored on different clients.
    """
    own = [score for score in scores if score.seen and score.group is not None and control_of(score.method)[1] is None]
    groups = sorted({str(score.group) for score in own})
    if len(groups) < 2:
        return ()
    rows = []
    for group in groups:
        found = by_condition(score for score in own if score.group == group and score.method != BAYES)
        gains = gains_over_global(found, bootstrap, same_users=same_users)
        rows += [GroupRow(*condition, group, **fields) for condition, fields in gains]
    rows.sort(key=lambda row: row.n_clients)
    return adjusted_over_methods(rows)
