"""How good policies are: win rates and utilities against the base policy.

All means are over prompts that no training saw, then over seeds. Prompts and users count in their intervals, training
seeds in those of the method; see :mod:`fedvpa.evaluation.prompt_sample`. A missing verdict is counted as missing and as
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedvpa.core.errors import DataError
from fedvpa.evaluation.holm import holm, holm_of_known
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Difference, Estimate, difference, estimate, ratio
from fedvpa.evaluation.judge_bias import flipped_share, judge_summaries
from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.evaluation.judges.length_control import length_controlled
from fedvpa.evaluation.outcomes import Outcome
from fedvpa.evaluation.policy_results import (
    PolicyComparison,
    PolicyDifferenceRow,
    PolicyRow,
    PolicySummary,
    PreferenceSummary,
    UserSummary,
)
from fedvpa.evaluation.prompt_sample import PromptSample
from fedvpa.evaluation.student import Interval
from fedvpa.evaluation.summaries import (
    ORACLE,
    SHARE,
    SHARE_DIFFERENCE,
    Condition,
    Seconds,
    by_condition,
    by_seed,
    check_level,
    ends_of,
    method_ends_of,
    preferred,
    value_of,
)

Value = Callable[[Outcome], float | None]


@dataclass(frozen=True, slots=True)
class _Rule:
    """What all of a comparison's estimates share; see :func:`policy_comparison`."""

    bootstrap: Bootstrap
    same_users: bool

    def sample(self, outcomes: Iterable[Outcome], value: Value) -> PromptSample | None:
        """A number per outcome."""
        return PromptSample.of(outcomes, value, same_users=self.same_users)


def policy_comparison(
    outcomes: Iterable[Outcome],
    seconds: Seconds,
    chosen: str | None = None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    *,
    same_users: bool = False,
) -> PolicyComparison:
    """Everything that is said about policies compared on the same prompts.

    Args:
        outcomes: Of all methods, numbers of clients, seeds, preferences, users and prompts.
        seconds: Wall-clock time of making the policy by (method, n_clients, seed); a missing one becomes None.
        chosen: The method that is compared with every other one; by default the ``preferred`` one.
        bootstrap: How intervals are computed; the level must be 0.95, as the keys ``ci95`` say.
        same_users: Whether a user's name stands for the same person in every seed: where every user is a client.

    Raises:
        DataError: Without any outcome, for an answer given twice, or where methods were judged on different prompts.
        ConfigError: For another level than 0.95.
    """
    check_level(bootstrap)
    rule = _Rule(bootstrap, same_users)
    # Sums of floats depend on their order: the same outcomes in another order must give the same bits.
    ordered = sorted(outcomes, key=lambda outcome: (outcome.seed, outcome.user_id, outcome.prompt))
    conditions = by_condition(ordered)
    if not conditions:
        raise DataError("there is no outcome of any policy to compare.", fix="Judge at least one policy.")
    seen, unseen = (
        {condition: [outcome for outcome in found if outcome.seen == kind] for condition, found in conditions.items()}
        for kind in (True, False)
    )
    _check_prompts(seen)
    return PolicyComparison(
        bootstrap,
        rows=tuple(row for condition, found in conditions.items() for row in _rows(condition, found, seconds)),
        summary=tuple(
            _summary(condition, tuple(by_seed(found)), seen, unseen, rule) for condition, found in conditions.items()
        ),
        differences=_differences(seen, chosen or preferred(conditions), rule),
        judges=judge_summaries(ordered),
    )


def _check_prompts(conditions: Mapping[Condition, Sequence[Outcome]]) -> None:
    """Methods at the same number of clients, seed and preference answer the same prompts, verdict or not."""
    first: dict[tuple[int, int, str], tuple[str, set[str]]] = {}
    for (method, n_clients), outcomes in conditions.items():
        for seed, found in by_seed(outcomes).items():
            for preference, own in _by_preference(found).items():
                prompts = {outcome.prompt for outcome in own}
                other, expected = first.setdefault((n_clients, seed, preference), (method, prompts))
                if odd := prompts ^ expected:
                    raise DataError(
                        f"at N = {n_clients}, seed {seed}, {preference}: {method} and {other} differ in {len(odd)} "
                        f"prompts (such as {min(odd)!r}).",
                        fix="Paired comparisons need every method on the same prompts.",
                    )


def _by_preference(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.preference, []).append(outcome)
    return dict(sorted(found.items()))


def _score(outcome: Outcome) -> float | None:
    return outcome.score


def _utility(outcome: Outcome) -> float | None:
    return outcome.utility


def _gain(outcome: Outcome) -> float | None:
    return outcome.gain


def _parsed(outcome: Outcome) -> float | None:
    return outcome.parsed


def _mean(outcomes: Iterable[Outcome], value: Value) -> float | None:
    sample = PromptSample.of(outcomes, value)
    return None if sample is None else sample.mean


def _missing(outcomes: Iterable[Outcome]) -> int:
    return sum(outcome.score is None for outcome in outcomes)


def _rows(condition: Condition, outcomes: Sequence[Outcome], seconds: Seconds) -> list[PolicyRow]:
    rows = []
    for seed, found in by_seed(outcomes).items():
        seen, unseen = ([outcome for outcome in found if outcome.seen == kind] for kind in (True, False))
        rows.append(
            PolicyRow(
                *condition,
                seed,
                win_rates=_means(seen, _score),
                utilities=_means(seen, _utility),
                parsed=_means(seen, _parsed),
                missing=_missing(seen),
                outcomes=len(seen),
                unseen_win_rates=_means(unseen, _score),
                unseen_utilities=_means(unseen, _utility),
                unseen_parsed=_means(unseen, _parsed),
                unseen_missing=_missing(unseen),
                unseen_outcomes=len(unseen),
                seconds=seconds.get((*condition, seed)),
            )
        )
    return rows


def _means(outcomes: Iterable[Outcome], value: Value) -> dict[str, float | None]:
    return {name: _mean(found, value) for name, found in _by_preference(outcomes).items()}


def _summary(
    condition: Condition,
    seeds: tuple[int, ...],
    seen: Mapping[Condition, Sequence[Outcome]],
    unseen: Mapping[Condition, Sequence[Outcome]],
    rule: _Rule,
) -> PolicySummary:
    oracle = Condition(ORACLE, condition.n_clients)
    found = _users(seen[condition], seen.get(oracle, ()), rule)
    # The oracle's policies know no users: theirs may all count as seen.
    others = unseen.get(oracle) or seen.get(oracle, ())
    return PolicySummary(
        *condition,
        seeds,
        found.preferences,
        found.worse_axis,
        found.oracle_share,
        unseen=_users(unseen[condition], others, rule) if unseen[condition] else None,
    )


def _users(outcomes: Sequence[Outcome], oracle: Sequence[Outcome], rule: _Rule) -> UserSummary:
    by_name, yardstick = _by_preference(outcomes), _by_preference(oracle)
    preferences = {name: _preference(found, rule) for name, found in by_name.items()}
    rates = {name: found.win_rate for name, found in preferences.items() if found.win_rate is not None}
    return UserSummary(
        preferences,
        worse_axis=min(rates, key=lambda name: rates[name]) if rates else None,
        oracle_share={name: _oracle_share(found, yardstick.get(name, ()), rule) for name, found in by_name.items()},
    )


def _oracle_share(outcomes: Sequence[Outcome], oracle: Sequence[Outcome], rule: _Rule) -> Estimate | None:
    """The mean gain over the oracle's, whose policies know no users; None where it answered other prompts."""
    gain, whole = rule.sample(outcomes, _gain), rule.sample(oracle, _gain)
    if gain is None or whole is None or gain.seed_prompts != whole.seed_prompts:
        return None
    return ratio(gain, whole, rule.bootstrap)


def _preference(outcomes: Sequence[Outcome], rule: _Rule) -> PreferenceSummary:
    def estimated(value: Value, bounds: Interval | None = None) -> Estimate | None:
        sample = rule.sample(outcomes, value)
        return None if sample is None else estimate(sample, rule.bootstrap, bounds)

    win_rate, parsed = estimated(_score, SHARE), estimated(_parsed, SHARE)
    utility, gain = estimated(_utility), estimated(_gain)
    return PreferenceSummary(
        win_rate=value_of(win_rate),
        ci95=ends_of(win_rate),
        method_ci95=method_ends_of(win_rate),
        length_controlled=_length_controlled(outcomes),
        utility=value_of(utility),
        utility_ci95=ends_of(utility),
        utility_method_ci95=method_ends_of(utility),
        base_utility=_mean(outcomes, lambda outcome: outcome.base_utility),
        utility_gain=value_of(gain),
        utility_gain_ci95=ends_of(gain),
        utility_gain_method_ci95=method_ends_of(gain),
        parsed=value_of(parsed),
        parsed_ci95=ends_of(parsed),
        parsed_method_ci95=method_ends_of(parsed),
        base_parsed=_mean(outcomes, lambda outcome: outcome.base_parsed),
        tokens=_mean(outcomes, lambda outcome: outcome.tokens),
        missing=_missing(outcomes),
        ties=sum(outcome.score == 0.5 for outcome in outcomes),
        flipped=flipped_share(outcomes),
        outcomes=len(outcomes),
        prompts=len({outcome.prompt for outcome in outcomes}),
        users=len({(outcome.seed, outcome.user_id) for outcome in outcomes if outcome.user_id}),
    )


def _length_controlled(outcomes: Iterable[Outcome]) -> float | None:
    """One regression over all verdicts: those of a single seed are few for it."""
    judged = [
        (Duel(outcome.prompt, outcome.response, outcome.base_response, outcome.preference), Verdict(outcome.score))
        for outcome in outcomes
        if outcome.score is not None
    ]
    return length_controlled(*map(list, zip(*judged, strict=True))).controlled if judged else None


def _differences(
    conditions: Mapping[Condition, Sequence[Outcome]], chosen: str, rule: _Rule
) -> tuple[PolicyDifferenceRow, ...]:
    """The chosen method's win rate less that of every other; p adjusted over the whole table."""
    found: list[tuple[Condition, str, Difference]] = []
    for condition, outcomes in conditions.items():
        if condition.method == chosen:
            continue
        others = _by_preference(outcomes)
        for name, own in _by_preference(conditions.get(Condition(chosen, condition.n_clients), ())).items():
            gain = difference(
                rule.sample(own, _score),
                rule.sample(others.get(name, ()), _score),
                rule.bootstrap,
                bounds=SHARE_DIFFERENCE,
            )
            if gain is not None:
                found.append((condition, name, gain))
    adjusted = holm([gain.p_value for *_, gain in found])
    over_seeds = holm_of_known([gain.method_p_value for *_, gain in found])
    return tuple(
        PolicyDifferenceRow(
            condition.n_clients,
            name,
            chosen,
            condition.method,
            gain.estimate.value,
            gain.estimate.interval,
            gain.estimate.method,
            gain.p_value,
            prompts=gain.units,
            seeds=gain.seeds,
            p_holm=p_holm,
            method_p_value=gain.method_p_value,
            method_p_holm=method_p_holm,
        )
        for (condition, name, gain), p_holm, method_p_holm in zip(found, adjusted, over_seeds, strict=True)
    )
