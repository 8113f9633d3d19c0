"""Users whom training never saw, by the number of labelled pairs that they give, each method against ``global``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedvpa.evaluation.client_sample import ClientSample
from fedvpa.evaluation.difference_rows import adjusted_over_methods
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Difference, Estimate, difference, estimate
from fedvpa.evaluation.scores import ClientScore
from fedvpa.evaluation.student import Interval
from fedvpa.evaluation.summaries import GLOBAL, SHARE, SHARE_DIFFERENCE, Condition, JsonResult, by_condition


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
        samples = {condition: ClientSample.of(found, same_users=same_users) for condition, found in unseen.items()}
        for condition, sample in samples.items():
            base = samples.get(Condition(GLOBAL, condition.n_clients)) if condition.method != GLOBAL else None
            gain = difference(sample, base, bootstrap, bounds=SHARE_DIFFERENCE)
            if sample is not None:
                rows.append(_row(condition, count, sample, estimate(sample, bootstrap, SHARE), gain))
    rows.sort(key=lambda row: row.n_clients)
    return adjusted_over_methods(rows)


def _row(condition: Condition, count: int, sample: ClientSample, own: Estimate, gain: Difference | None) -> ShotRow:
    return ShotRow(
        condition.method,
        condition.n_clients,
        count,
        sample.units,
        own.value,
        own.interval,
        own.method,
        difference=None if gain is None else gain.estimate,
        p_value=None if gain is None else gain.p_value,
        p_holm=None,
        method_p_value=None if gain is None else gain.method_p_value,
        method_p_holm=None,
    )
