"""What one policy's answers are worth while z moves in steps from one preference to another.

Judges that know utilities give a curve of utilities; of any other judge it is one of win rates against the base policy,
whose answers are the same at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate, estimate
from fedvpa.evaluation.outcomes import Outcome
from fedvpa.evaluation.prompt_sample import PromptSample
from fedvpa.evaluation.student import Interval
from fedvpa.evaluation.summaries import JsonResult, by_condition

Measure = Literal["utility", "win_rate"]
"""What a curve shows."""

BOUNDS: Mapping[Measure, Interval | None] = {"utility": None, "win_rate": (0.0, 1.0)}
MEASURED: Mapping[str, Callable[[Outcome], float | None]] = {
    "utility": lambda outcome: outcome.utility,
    "win_rate": lambda outcome: outcome.score,
    "parsed": lambda outcome: outcome.parsed,
}

Steps = Mapping[float, Sequence[Outcome]]


@dataclass(frozen=True, slots=True)
class PreferencePath(JsonResult):
    """What the answers are worth to one preference at each step.

    Attributes:
        direction: ``rises`` or ``falls``: where the curve's measure is expected to go.
        utility: Mean utility of the answers at each step; None where the judge knows none.
        win_rates: Share of the answers at each step that win against the base policy's, in [0, 1]; None for a step
            without any verdict.
        ci95: The measure's interval at each step, of these trained policies.
        method_ci95: The same over training seeds too; None with a single seed.
        differences: Of the measure between neighbouring steps, paired by prompt: one less than steps.
        monotone: Whether the interval of each difference holds a change in the expected direction.
        change: Of the measure from the first step to the last, paired by prompt.
        switches: Whether all of the change's interval lies in the expected direction.
        parsed: Fraction of answers inside the world's grammar at each step; None where there is no grammar.
        prompts: Prompts that the measure is known of at every step.
    """

    direction: str
    utility: tuple[float, ...] | None
    win_rates: tuple[float | None, ...]
    ci95: tuple[Interval | None, ...]
    method_ci95: tuple[Interval | None, ...]
    differences: tuple[Estimate, ...]
    monotone: bool
    change: Estimate
    switches: bool
    parsed: tuple[float | None, ...]
    prompts: int


@dataclass(frozen=True, slots=True)
class SwitchingCurve(JsonResult):
    """One policy's answers on the same prompts at every step.

    Attributes:
        method: The algorithm's name.
        n_clients: How many clients the runs trained on.
        seeds: Their seeds, sorted.
        steps: Shares of the path from one prototype to the other, from 0 to 1.
        measure: What is shown: ``utility`` where the judge knows it, else ``win_rate``.
        rising: The preference at the end of the path.
        preferences: Preference → what the answers are worth to it.
        monotone: Whether those of all preferences are.
    """

    method: str
    n_clients: int
    seeds: tuple[int, ...]
    steps: tuple[float, ...]
    measure: Measure
    rising: str
    preferences: Mapping[str, PreferencePath]
    monotone: bool


def switching(
    outcomes_by_step: Mapping[float, Iterable[Outcome]],
    rising: str | None = None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> SwitchingCurve:
    """What one policy's answers are worth to each preference while z moves from one prototype to another.

    Args:
        outcomes_by_step: Share of the path, from 0 to 1 → outcomes of one method on the same prompts, each answer once
            per preference.
        rising: The preference at the end of the path, whose measure must rise while all others fall. By default the
            one that gains most from the first step to the last.
        bootstrap: How intervals are computed.

    Raises:
        DataError: For fewer than two steps, several methods or numbers of clients, steps that differ in their prompts,
            utilities of only some answers, or a preference under which no prompt has a verdict at every step.
        ConfigError: If there is no preference ``rising``.
    """
    steps = {step: list(outcomes_by_step[step]) for step in sorted(outcomes_by_step)}
    if len(steps) < 2:
        raise DataError(f"a path of {len(steps)} steps leads nowhere.", fix="Give at least the two ends.")
    outcomes = [outcome for found in steps.values() for outcome in found]
    conditions = list(by_condition(outcomes))
    if len(conditions) != 1:
        known = sorted(map(tuple, conditions))
        raise DataError(f"a path is that of one policy, not of {known}.", fix="Select one method and size.")
    preferences = sorted({outcome.preference for outcome in outcomes})
    measure: Measure = "utility" if any(outcome.utility is not None for outcome in outcomes) else "win_rate"
    values = {name: _values(steps, name, measure) for name in preferences}
    if rising is None:
        rising = max(preferences, key=lambda name: values[name][-1].mean - values[name][0].mean)
    elif rising not in preferences:
        raise ConfigError(f"no preference {rising!r} was judged.", fix=f"Known: {', '.join(preferences)}.")
    paths = {name: _path(steps, name, values[name], measure, name == rising, bootstrap) for name in preferences}
    return SwitchingCurve(
        *conditions[0],
        seeds=tuple(sorted({outcome.seed for outcome in outcomes})),
        steps=tuple(steps),
        measure=measure,
        rising=rising,
        preferences=paths,
        monotone=all(path.monotone for path in paths.values()),
    )


def _values(steps: Steps, preference: str, measure: Measure) -> list[PromptSample]:
    """The measure under one preference at each step, on the same prompts, users and seeds.

    Of win rates those prompts are left out that lack a verdict at some step.
    """
    found = {step: [o for o in outcomes if o.preference == preference] for step, outcomes in steps.items()}
    answers = {step: PromptSample.of(own, lambda _: 0.0) for step, own in found.items()}
    if unjudged := [step for step, sample in answers.items() if sample is None]:
        raise DataError(f"step {unjudged[0]} was not judged under {preference!r}.", fix="Judge all steps the same way.")
    keys = [set(sample.values) for sample in answers.values() if sample is not None]
    for other in keys[1:]:
        if odd := other ^ keys[0]:
            raise DataError(
                f"the steps of a path differ in {len(odd)} answers, such as (seed, prompt, user) = {min(odd)!r}.",
                fix="Give the same prompts, users and seeds at every step.",
            )
    samples = [PromptSample.of(own, MEASURED[measure]) for own in found.values()]
    known = set.intersection(*(set(sample.values) if sample else set() for sample in samples))
    if measure == "utility" and known != keys[0]:
        unknown = next(outcome for own in found.values() for outcome in own if outcome.utility is None)
        raise DataError(f"{unknown.name} has no utility.", fix="Judge all steps with one judge.")
    if not known:
        raise DataError(
            f"no prompt has a verdict under {preference!r} at every step of the path.",
            fix="Remove the cause of the missing verdicts and judge again.",
        )
    return [PromptSample({key: sample.values[key] for key in sorted(known)}) for sample in samples if sample]


def _path(
    steps: Steps,
    name: str,
    samples: Sequence[PromptSample],
    measure: Measure,
    rises: bool,
    bootstrap: Bootstrap,
) -> PreferencePath:
    shown = [estimate(sample, bootstrap, BOUNDS[measure]) for sample in samples]
    differences = tuple(change_between(earlier, later, bootstrap) for earlier, later in pairwise(samples))
    change = change_between(samples[0], samples[-1], bootstrap)
    means = tuple(found.value for found in shown)
    own = [[outcome for outcome in outcomes if outcome.preference == name] for outcomes in steps.values()]
    return PreferencePath(
        direction="rises" if rises else "falls",
        utility=means if measure == "utility" else None,
        win_rates=means if measure == "win_rate" else _means(own, "win_rate"),
        ci95=tuple(found.interval for found in shown),
        method_ci95=tuple(found.method for found in shown),
        differences=differences,
        monotone=all(may_go(difference, rises) for difference in differences),
        change=change,
        switches=goes(change, rises),
        parsed=_means(own, "parsed"),
        prompts=samples[0].units,
    )


def _means(steps: Sequence[Sequence[Outcome]], measure: str) -> tuple[float | None, ...]:
    """The mean of a measure at each step; None where no answer has it."""
    samples = [PromptSample.of(outcomes, MEASURED[measure]) for outcomes in steps]
    return tuple(None if sample is None else sample.mean for sample in samples)


def change_between(earlier: PromptSample, later: PromptSample, bootstrap: Bootstrap) -> Estimate:
    """Mean of later minus earlier, paired by answer; both have the same answers."""
    gain = {key: value - earlier.values[key] for key, value in later.values.items()}
    return estimate(PromptSample(gain), bootstrap)


def may_go(change: Estimate, up: bool) -> bool:
    """Whether some change within the interval goes the expected way, or none happens at all."""
    low, high = change.interval or (change.value, change.value)
    return high >= 0 if up else low <= 0


def goes(change: Estimate, up: bool) -> bool:
    """Whether every change within the interval goes the expected way."""
    return change.interval is not None and (change.interval[0] > 0 if up else change.interval[1] < 0)
