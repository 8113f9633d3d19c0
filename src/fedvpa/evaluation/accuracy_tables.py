"""From scores of clients to the numbers of ``comparison.json``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

from fedvpa.core.errors import DataError
from fedvpa.evaluation.accuracy_results import (
    AccuracyComparison,
    AccuracyRow,
    AccuracySummary,
    ControlRow,
    DifferenceRow,
    FewShotPoint,
)
from fedvpa.evaluation.intervals import (
    DEFAULT_BOOTSTRAP,
    Bootstrap,
    Difference,
    Estimate,
    difference,
    estimate,
    gap_closed,
    holm,
)
from fedvpa.evaluation.scores import ClientScore, control_of
from fedvpa.evaluation.summaries import (
    BAYES,
    GLOBAL,
    ORACLE,
    YARDSTICKS,
    Condition,
    Seconds,
    by_condition,
    by_seed,
    check_level,
    ends_of,
    value_of,
)
from fedvpa.evaluation.units import ClientSample, estimate_worst_decile

Select = Callable[[Iterable[ClientScore]], ClientSample | None]


def comparison(
    scores: Iterable[ClientScore], seconds: Seconds, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> AccuracyComparison:
    """Everything that is said about methods compared on the same clients.

    Args:
        scores: Of all methods, numbers of clients, seeds and clients; controls under ``method:control``.
        seconds: Wall-clock training time by (method, n_clients, seed); a missing one becomes None.
        bootstrap: How intervals are computed; the level must be 0.95, as the keys ``ci95`` say.

    Raises:
        DataError: Without any score, for a client scored twice, for a control without its method, or where methods
            were scored on different clients.
        ConfigError: For another level than 0.95.
    """
    check_level(bootstrap)
    conditions = by_condition(scores)
    methods = {condition: found for condition, found in conditions.items() if control_of(condition.method)[1] is None}
    if not methods:
        raise DataError("there is no score of any method to compare.", fix="Score at least one method.")
    return AccuracyComparison(
        bootstrap,
        rows=tuple(row for condition, found in methods.items() for row in _rows(condition, found, seconds)),
        summary=tuple(_summary(condition, methods, bootstrap) for condition in methods),
        controls=tuple(
            _control(condition, conditions, bootstrap) for condition in conditions if condition not in methods
        ),
        differences=_differences({condition: _seen(found) for condition, found in methods.items()}, bootstrap),
    )


def few_shot_curve(
    scores: Mapping[int, Iterable[ClientScore]], bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> tuple[FewShotPoint, ...]:
    """How accuracy on clients that training never saw grows with the pairs they give as context.

    Args:
        scores: Number of context pairs → scores; those of seen clients are ignored.
        bootstrap: How intervals are computed.

    Returns:
        One point per (context pairs, n_clients, method).

    Raises:
        DataError: For a client scored twice.
    """
    points = []
    for context_pairs in sorted(scores):
        unseen = by_condition(score for score in scores[context_pairs] if not score.seen)
        for (method, n_clients), found in unseen.items():
            sample = _required(found)
            accuracy = estimate(sample, bootstrap)
            points.append(
                FewShotPoint(method, n_clients, context_pairs, accuracy.value, accuracy.interval, sample.units)
            )
    return tuple(points)


def _seen(scores: Iterable[ClientScore]) -> ClientSample | None:
    return ClientSample.of(score for score in scores if score.seen)


def _holdout(scores: Iterable[ClientScore]) -> ClientSample | None:
    return ClientSample.of((score for score in scores if score.seen), lambda score: score.holdout_accuracy)


def _unseen(scores: Iterable[ClientScore]) -> ClientSample | None:
    return ClientSample.of(score for score in scores if not score.seen)


def _required(scores: Iterable[ClientScore]) -> ClientSample:
    sample = ClientSample.of(scores)
    if sample is None:
        raise DataError("there is no score to estimate from.")
    return sample


def _by_group(scores: Iterable[ClientScore], select: Select) -> dict[str, ClientSample]:
    groups: dict[str, list[ClientScore]] = defaultdict(list)
    for score in scores:
        if score.group is not None:
            groups[score.group].append(score)
    samples = {name: select(groups[name]) for name in sorted(groups)}
    return {name: sample for name, sample in samples.items() if sample is not None}


def _rows(condition: Condition, scores: Sequence[ClientScore], seconds: Seconds) -> list[AccuracyRow]:
    def mean(sample: ClientSample | None) -> float | None:
        return None if sample is None else sample.mean

    def group_means(found: Iterable[ClientScore], select: Select) -> dict[str, float]:
        return {name: sample.mean for name, sample in _by_group(found, select).items()}

    return [
        AccuracyRow(
            *condition,
            seed,
            accuracy=mean(_seen(found)),
            groups=group_means(found, _seen),
            holdout_accuracy=mean(_holdout(found)),
            holdout_groups=group_means(found, _holdout),
            unseen_accuracy=mean(_unseen(found)),
            seconds=seconds.get((*condition, seed)),
        )
        for seed, found in by_seed(scores).items()
    ]


def _summary(
    condition: Condition, methods: Mapping[Condition, Sequence[ClientScore]], bootstrap: Bootstrap
) -> AccuracySummary:
    scores = methods[condition]
    low, high = (methods.get(Condition(name, condition.n_clients), ()) for name in (GLOBAL, ORACLE))

    def mean(select: Select) -> Estimate | None:
        sample = select(scores)
        return None if sample is None else estimate(sample, bootstrap)

    def gap(select: Select) -> Estimate | None:
        return gap_closed(select(scores), select(low), select(high), bootstrap)

    def groups(select: Select) -> dict[str, Estimate]:
        return {name: estimate(sample, bootstrap) for name, sample in _by_group(scores, select).items()}

    seen = _seen(scores)
    (own, own_gap), (holdout, holdout_gap), (unseen, unseen_gap) = (
        (mean(select), gap(select)) for select in (_seen, _holdout, _unseen)
    )
    return AccuracySummary(
        *condition,
        seeds=tuple(by_seed(scores)),
        clients=0 if seen is None else seen.units,
        mean=value_of(own),
        ci95=ends_of(own),
        gap_closed=value_of(own_gap),
        gap_closed_ci95=ends_of(own_gap),
        worst_decile=None if seen is None else estimate_worst_decile(seen, bootstrap),
        groups=groups(_seen),
        holdout_mean=value_of(holdout),
        holdout_ci95=ends_of(holdout),
        holdout_gap_closed=value_of(holdout_gap),
        holdout_gap_closed_ci95=ends_of(holdout_gap),
        holdout_groups=groups(_holdout),
        unseen_mean=value_of(unseen),
        unseen_ci95=ends_of(unseen),
        unseen_gap_closed=value_of(unseen_gap),
        unseen_gap_closed_ci95=ends_of(unseen_gap),
    )


def _control(
    condition: Condition, conditions: Mapping[Condition, Sequence[ClientScore]], bootstrap: Bootstrap
) -> ControlRow:
    """A control beside its method on the same clients, seen ones where there are any."""
    method, control = control_of(condition.method)
    own = Condition(method, condition.n_clients)
    if control is None or own not in conditions:
        raise DataError(
            f"{condition.method!r} is a control of {method!r}, which has no scores at N = {condition.n_clients}.",
            fix="Score the method itself as well.",
        )
    under, without = (_seen(conditions[one]) or _required(conditions[one]) for one in (condition, own))
    accuracy, change = estimate(under, bootstrap), difference(under, without, bootstrap)
    return ControlRow(
        method,
        control,
        condition.n_clients,
        accuracy.value,
        accuracy.interval,
        difference=None if change is None else change.estimate,
    )


def _differences(samples: Mapping[Condition, ClientSample | None], bootstrap: Bootstrap) -> tuple[DifferenceRow, ...]:
    """Every pair of methods at the same number of clients, except two yardsticks; p adjusted over the whole table."""
    found: list[tuple[int, str, str, Difference]] = []
    for (first, n_clients), (second, other) in combinations(samples, 2):
        if n_clients != other or BAYES in (first, second) or {first, second} <= set(YARDSTICKS):
            continue
        ahead, behind = (second, first) if first in YARDSTICKS else (first, second)
        gain = difference(samples[Condition(ahead, n_clients)], samples[Condition(behind, n_clients)], bootstrap)
        if gain is not None:
            found.append((n_clients, ahead, behind, gain))
    adjusted = holm([gain.p_value for *_, gain in found])
    return tuple(
        DifferenceRow(
            n_clients,
            first,
            second,
            gain.estimate.value,
            gain.estimate.interval,
            gain.p_value,
            p_holm,
            clients=gain.units,
            seeds=gain.seeds,
        )
        for (n_clients, first, second, gain), p_holm in zip(found, adjusted, strict=True)
    )
