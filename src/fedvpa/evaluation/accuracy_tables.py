"""From scores of clients to the numbers of ``comparison.json``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from fedvpa.evaluation.client_sample import ClientSample
from fedvpa.evaluation.difference_rows import Found, difference_rows
from fedvpa.evaluation.intervals import (
    DEFAULT_BOOTSTRAP,
    Bootstrap,
    Estimate,
    difference,
    estimate,
    gap_closed,
)
from fedvpa.evaluation.scores import ClientScore, control_of
from fedvpa.evaluation.summaries import (
    BAYES,
    GLOBAL,
    INFORMED,
    ORACLE,
    SHARE,
    SHARE_DIFFERENCE,
    YARDSTICKS,
    Condition,
    Seconds,
    by_condition,
    by_seed,
    check_level,
    ends_of,
    method_ends_of,
    value_of,
)
from fedvpa.evaluation.worst_decile import estimate_worst_decile

Select = Callable[[Iterable[ClientScore]], ClientSample | None]


@dataclass(frozen=True, slots=True)
class _Rule:
    """What all of a comparison's estimates share; see :func:`comparison`."""

    bootstrap: Bootstrap
    same_users: bool

    def seen(self, scores: Iterable[ClientScore]) -> ClientSample | None:
        """Of the clients that took part in training, on their own test pairs."""
        return ClientSample.of((score for score in scores if score.seen), same_users=self.same_users)

    def holdout(self, scores: Iterable[ClientScore]) -> ClientSample | None:
        """The same on the hold-out."""
        return ClientSample.of(
            (score for score in scores if score.seen),
            lambda score: score.holdout_accuracy,
            lambda score: score.holdout_tested(),
            same_users=self.same_users,
        )

    def unseen(self, scores: Iterable[ClientScore]) -> ClientSample | None:
        """Of the other clients."""
        return ClientSample.of((score for score in scores if not score.seen), same_users=self.same_users)

    def all(self, scores: Iterable[ClientScore]) -> ClientSample:
        """Of all clients.

        Raises:
            DataError: Without any.
        """
        sample = ClientSample.of(scores, same_users=self.same_users)
        if sample is None:
            raise DataError("there is no score to estimate from.")
        return sample

    def estimate(self, sample: ClientSample) -> Estimate:
        """An accuracy with its intervals."""
        return estimate(sample, self.bootstrap, SHARE)


def comparison(
    scores: Iterable[ClientScore],
    seconds: Seconds,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    *,
    same_users: bool = False,
    variants: Collection[str] = (),
) -> AccuracyComparison:
    """Everything that is said about methods compared on the same clients.

    Args:
        scores: Of all methods, numbers of clients, seeds and clients; controls under ``method:control``.
        seconds: Wall-clock training time by (method, n_clients, seed); a missing one becomes None.
        bootstrap: How intervals are computed; the level must be 0.95, as the keys ``ci95`` say.
        same_users: Whether a client's name stands for the same person in every seed: where every user is a client.
        variants: Those of the methods that are variants of another, and are compared with it alone; see
            :func:`fedvpa.evaluation.ablations.ablation_rows`.

    Raises:
        DataError: Without any score, for a client scored twice, for a control without its method, or where methods
            were scored on different clients.
        ConfigError: For another level than 0.95.
    """
    check_level(bootstrap)
    rule = _Rule(bootstrap, same_users)
    conditions = by_condition(scores)
    methods = {condition: found for condition, found in conditions.items() if control_of(condition.method)[1] is None}
    if not methods:
        raise DataError("there is no score of any method to compare.", fix="Score at least one method.")
    return AccuracyComparison(
        bootstrap,
        rows=tuple(row for condition, found in methods.items() for row in _rows(condition, found, seconds, rule)),
        summary=tuple(_summary(condition, methods, rule) for condition in methods),
        controls=tuple(_control(condition, conditions, rule) for condition in conditions if condition not in methods),
        differences=_differences(
            {condition: rule.seen(found) for condition, found in methods.items()}, bootstrap, variants
        ),
    )


def few_shot_curve(
    scores: Mapping[int, Iterable[ClientScore]],
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    *,
    same_users: bool = False,
) -> tuple[FewShotPoint, ...]:
    """How accuracy on clients that training never saw grows with the pairs they give as context.

    Args:
        scores: Number of context pairs → scores; those of seen clients are ignored.
        bootstrap: How intervals are computed.
        same_users: As of :func:`comparison`.

    Returns:
        One point per (context pairs, n_clients, method).

    Raises:
        DataError: For a client scored twice.
    """
    points = []
    rule = _Rule(bootstrap, same_users)
    for context_pairs in sorted(scores):
        unseen = by_condition(score for score in scores[context_pairs] if not score.seen)
        for (method, n_clients), found in unseen.items():
            sample = rule.all(found)
            accuracy = rule.estimate(sample)
            ends = accuracy.interval, accuracy.method
            points.append(FewShotPoint(method, n_clients, context_pairs, accuracy.value, *ends, sample.units))
    return tuple(points)


def _by_group(scores: Iterable[ClientScore], select: Select) -> dict[str, ClientSample]:
    groups: dict[str, list[ClientScore]] = defaultdict(list)
    for score in scores:
        if score.group is not None:
            groups[score.group].append(score)
    samples = {name: select(groups[name]) for name in sorted(groups)}
    return {name: sample for name, sample in samples.items() if sample is not None}


def _rows(condition: Condition, scores: Sequence[ClientScore], seconds: Seconds, rule: _Rule) -> list[AccuracyRow]:
    def mean(sample: ClientSample | None) -> float | None:
        return None if sample is None else sample.mean

    def group_means(found: Iterable[ClientScore], select: Select) -> dict[str, float]:
        return {name: sample.mean for name, sample in _by_group(found, select).items()}

    return [
        AccuracyRow(
            *condition,
            seed,
            accuracy=mean(rule.seen(found)),
            groups=group_means(found, rule.seen),
            holdout_accuracy=mean(rule.holdout(found)),
            holdout_groups=group_means(found, rule.holdout),
            unseen_accuracy=mean(rule.unseen(found)),
            seconds=seconds.get((*condition, seed)),
        )
        for seed, found in by_seed(scores).items()
    ]


def _summary(condition: Condition, methods: Mapping[Condition, Sequence[ClientScore]], rule: _Rule) -> AccuracySummary:
    scores = methods[condition]
    low, informed, high = (methods.get(Condition(name, condition.n_clients), ()) for name in (GLOBAL, INFORMED, ORACLE))

    def mean(select: Select) -> Estimate | None:
        sample = select(scores)
        return None if sample is None else rule.estimate(sample)

    def gap(select: Select, top: Sequence[ClientScore]) -> Estimate | None:
        return gap_closed(select(scores), select(low), select(top), rule.bootstrap)

    def groups(select: Select) -> dict[str, Estimate]:
        return {name: rule.estimate(sample) for name, sample in _by_group(scores, select).items()}

    seen = rule.seen(scores)
    (own, own_gap, own_share), (holdout, holdout_gap, holdout_share), (unseen, unseen_gap, unseen_share) = (
        (mean(select), gap(select, high), gap(select, informed)) for select in (rule.seen, rule.holdout, rule.unseen)
    )
    return AccuracySummary(
        *condition,
        seeds=tuple(by_seed(scores)),
        clients=0 if seen is None else seen.units,
        mean=value_of(own),
        ci95=ends_of(own),
        method_ci95=method_ends_of(own),
        gap_closed=value_of(own_gap),
        gap_closed_ci95=ends_of(own_gap),
        gap_closed_method_ci95=method_ends_of(own_gap),
        informed_share=value_of(own_share),
        informed_share_ci95=ends_of(own_share),
        informed_share_method_ci95=method_ends_of(own_share),
        worst_decile=None if seen is None else estimate_worst_decile(seen, rule.bootstrap),
        groups=groups(rule.seen),
        holdout_mean=value_of(holdout),
        holdout_ci95=ends_of(holdout),
        holdout_method_ci95=method_ends_of(holdout),
        holdout_gap_closed=value_of(holdout_gap),
        holdout_gap_closed_ci95=ends_of(holdout_gap),
        holdout_gap_closed_method_ci95=method_ends_of(holdout_gap),
        holdout_informed_share=value_of(holdout_share),
        holdout_informed_share_ci95=ends_of(holdout_share),
        holdout_informed_share_method_ci95=method_ends_of(holdout_share),
        holdout_groups=groups(rule.holdout),
        unseen_mean=value_of(unseen),
        unseen_ci95=ends_of(unseen),
        unseen_method_ci95=method_ends_of(unseen),
        unseen_gap_closed=value_of(unseen_gap),
        unseen_gap_closed_ci95=ends_of(unseen_gap),
        unseen_gap_closed_method_ci95=method_ends_of(unseen_gap),
        unseen_informed_share=value_of(unseen_share),
        unseen_informed_share_ci95=ends_of(unseen_share),
        unseen_informed_share_method_ci95=method_ends_of(unseen_share),
    )


def _control(condition: Condition, conditions: Mapping[Condition, Sequence[ClientScore]], rule: _Rule) -> ControlRow:
    """A control beside its method on the same clients, seen ones where there are any."""
    method, control = control_of(condition.method)
    own = Condition(method, condition.n_clients)
    if control is None or own not in conditions:
        raise DataError(
            f"{condition.method!r} is a control of {method!r}, which has no scores at N = {condition.n_clients}.",
            fix="Score the method itself as well.",
        )
    under, without = (rule.seen(conditions[one]) or rule.all(conditions[one]) for one in (condition, own))
    accuracy, change = rule.estimate(under), difference(under, without, rule.bootstrap, bounds=SHARE_DIFFERENCE)
    return ControlRow(
        method,
        control,
        condition.n_clients,
        accuracy.value,
        accuracy.interval,
        accuracy.method,
        difference=None if change is None else change.estimate,
    )


def _differences(
    samples: Mapping[Condition, ClientSample | None], bootstrap: Bootstrap, variants: Collection[str]
) -> tuple[DifferenceRow, ...]:
    """Pairs of methods at the same number of clients, except two yardsticks and variants; p adjusted over all."""
    found: list[Found] = []
    for (first, n_clients), (second, other) in combinations(samples, 2):
        if n_clients != other or {first, second} & {BAYES, *variants} or {first, second} <= set(YARDSTICKS):
            continue
        ahead, behind = (second, first) if first in YARDSTICKS else (first, second)
        pair = samples[Condition(ahead, n_clients)], samples[Condition(behind, n_clients)]
        gain = difference(*pair, bootstrap, bounds=SHARE_DIFFERENCE)
        if gain is not None:
            found.append((n_clients, ahead, behind, gain))
    return difference_rows(found)
