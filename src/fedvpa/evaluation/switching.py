"""What one policy's answers are worth while z moves in steps from one preference to another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate, Interval, estimate
from fedvpa.evaluation.outcomes import Outcome
from fedvpa.evaluation.summaries import JsonResult, by_condition
from fedvpa.evaluation.units import PromptSample


@dataclass(frozen=True, slots=True)
class PreferencePath(JsonResult):
    """What the answers are worth to one preference at each step.

    Attributes:
        direction: ``rises`` or ``falls``: where its utility is expected to go.
        utility: Mean utility of the answers at each step.
        ci95: Its interval at each step.
        differences: Of neighbouring steps, paired by prompt: one less than steps.
        monotone: Whether the interval of each difference holds a change in the expected direction.
        change: From the first step to the last, paired by prompt.
        switches: Whether all of the change's interval lies in the expected direction.
        parsed: Fraction of answers inside the world's grammar at each step; None where there is no grammar.
    """

    direction: str
    utility: tuple[float, ...]
    ci95: tuple[Interval | None, ...]
    differences: tuple[Estimate, ...]
    monotone: bool
    change: Estimate
    switches: bool
    parsed: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class SwitchingCurve(JsonResult):
    """One policy's answers on the same prompts at every step.

    Attributes:
        method: The algorithm's name.
        n_clients: How many clients the runs trained on.
        seeds: Their seeds, sorted.
        steps: Shares of the path from one prototype to the other, from 0 to 1.
        rising: The preference at the end of the path.
        preferences: Preference → what the answers are worth to it.
        monotone: Whether those of all preferences are.
    """

    method: str
    n_clients: int
    seeds: tuple[int, ...]
    steps: tuple[float, ...]
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
        rising: The preference at the end of the path, whose utility must rise while all others fall. By default the
            one that gains most from the first step to the last.
        bootstrap: How intervals are computed.

    Raises:
        DataError: For fewer than two steps, several methods or numbers of clients, missing utilities, or steps that
            differ in their prompts.
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
    utilities = {name: _utilities(steps, name) for name in preferences}
    if rising is None:
        rising = max(preferences, key=lambda name: utilities[name][-1].mean - utilities[name][0].mean)
    elif rising not in preferences:
        raise ConfigError(f"no preference {rising!r} was judged.", fix=f"Known: {', '.join(preferences)}.")
    paths = {name: _path(utilities[name], _parsed(steps, name), name == rising, bootstrap) for name in preferences}
    return SwitchingCurve(
        *conditions[0],
        seeds=tuple(sorted({outcome.seed for outcome in outcomes})),
        steps=tuple(steps),
        rising=rising,
        preferences=paths,
        monotone=all(path.monotone for path in paths.values()),
    )


def _utilities(steps: Mapping[float, Sequence[Outcome]], preference: str) -> list[PromptSample]:
    """The utilities under one preference at each step, on the same prompts, users and seeds."""
    samples: list[PromptSample] = []
    for step, outcomes in steps.items():
        own = [outcome for outcome in outcomes if outcome.preference == preference]
        if unknown := [outcome for outcome in own if outcome.utility is None]:
            raise DataError(f"{unknown[0].name} has no utility.", fix="Judge a path with a judge that knows utilities.")
        sample = PromptSample.of(own, lambda outcome: outcome.utility)
        if sample is None:
            raise DataError(f"step {step} was not judged under {preference!r}.", fix="Judge all steps the same way.")
        samples.append(sample)
    for sample in samples[1:]:
        if odd := set(sample.values) ^ set(samples[0].values):
            raise DataError(
                f"the steps of a path differ in {len(odd)} answers, such as (seed, prompt, user) = {min(odd)!r}.",
                fix="Give the same prompts, users and seeds at every step.",
            )
    return samples


def _parsed(steps: Mapping[float, Sequence[Outcome]], preference: str) -> tuple[float | None, ...]:
    samples = [
        PromptSample.of((o for o in outcomes if o.preference == preference), lambda outcome: outcome.parsed)
        for outcomes in steps.values()
    ]
    return tuple(None if sample is None else sample.mean for sample in samples)


def _path(
    samples: Sequence[PromptSample], parsed: tuple[float | None, ...], rises: bool, bootstrap: Bootstrap
) -> PreferencePath:
    utilities = [estimate(sample, bootstrap) for sample in samples]
    differences = tuple(_change(earlier, later, bootstrap) for earlier, later in pairwise(samples))
    change = _change(samples[0], samples[-1], bootstrap)
    return PreferencePath(
        direction="rises" if rises else "falls",
        utility=tuple(found.value for found in utilities),
        ci95=tuple(found.interval for found in utilities),
        differences=differences,
        monotone=all(_may_go(difference, rises) for difference in differences),
        change=change,
        switches=_goes(change, rises),
        parsed=parsed,
    )


def _change(earlier: PromptSample, later: PromptSample, bootstrap: Bootstrap) -> Estimate:
    gain = {key: value - earlier.values[key] for key, value in later.values.items()}
    return estimate(PromptSample(gain), bootstrap)


def _may_go(change: Estimate, up: bool) -> bool:
    """Whether some change within the interval goes the expected way, or none happens at all."""
    low, high = change.interval or (change.value, change.value)
    return high >= 0 if up else low <= 0


def _goes(change: Estimate, up: bool) -> bool:
    """Whether every change within the interval goes the expected way."""
    return change.interval is not None and (change.interval[0] > 0 if up else change.interval[1] < 0)
