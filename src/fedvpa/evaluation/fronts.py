"""A front as a table: what each policy gains, whether rewards follow the preference, and the volume over the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fedvpa.core.errors import DataError
from fedvpa.evaluation.hypervolume import Front, hypervolume_difference, hypervolume_of
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate, estimate
from fedvpa.evaluation.prompt_sample import PromptSample
from fedvpa.evaluation.summaries import JsonResult
from fedvpa.evaluation.switching import change_between, goes, may_go


@dataclass(frozen=True, slots=True)
class ObjectivePath(JsonResult):
    """One objective along a path of preferences that give it more and more weight.

    Attributes:
        weights: Its share of each preference, ascending.
        gains: Mean reward of each policy above the base policy's.
        differences: Of the reward between neighbouring policies, paired by run and prompt: one less than policies.
        monotone: Whether the interval of each difference holds a rise, or none.
        change: Of the reward from the first policy to the last.
        rises: Whether all of the change's interval lies above zero.
    """

    weights: tuple[float, ...]
    gains: tuple[Estimate, ...]
    differences: tuple[Estimate, ...]
    monotone: bool
    change: Estimate
    rises: bool


@dataclass(frozen=True, slots=True)
class FrontSummary(JsonResult):
    """What the policies of one method are worth.

    Attributes:
        method: Its name.
        preferences: Of each policy: the weights of the objectives.
        objectives: Objective → its path.
        monotone: Whether all objectives rise with their weight, within the intervals.
        hypervolume: Over the base policy.
        seeds: How many runs.
        prompts: How many prompts judge.
    """

    method: str
    preferences: tuple[tuple[float, ...], ...]
    objectives: Mapping[str, ObjectivePath]
    monotone: bool
    hypervolume: Estimate
    seeds: int
    prompts: int


def summarise_front(
    method: str,
    front: Front,
    preferences: Sequence[Sequence[float]],
    objectives: Sequence[str],
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> FrontSummary:
    """What a front shows.

    Args:
        method: Whose it is.
        front: The rewards.
        preferences: The weights of the objectives that each policy was trained (or asked) for.
        objectives: Names, in the order of the rewards.
        bootstrap: How intervals are computed.

    Raises:
        DataError: If preferences or names do not fit the front.
    """
    weights = np.array(preferences, dtype=np.float64)
    seeds, policies, prompts, count = front.rewards.shape
    if weights.shape != (policies, count) or len(objectives) != count or policies < 2:
        raise DataError(
            f"{len(preferences)} preferences and {len(objectives)} objectives do not fit a front of {policies} "
            f"policies under {count} objectives.",
            fix="Give a preference for each of two policies or more, with a weight for each objective.",
        )
    paths = {name: _path(front, weights[:, place], place, bootstrap) for place, name in enumerate(objectives)}
    return FrontSummary(
        method=method,
        preferences=tuple(map(tuple, weights.tolist())),
        objectives=paths,
        monotone=all(path.monotone for path in paths.values()),
        hypervolume=hypervolume_of(front, bootstrap),
        seeds=seeds,
        prompts=prompts,
    )


def compared_volumes(
    fronts: Mapping[str, Front], first: str, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP
) -> dict[str, Estimate]:
    """Method → the hypervolume of ``first`` minus the method's, paired."""
    others = [name for name in fronts if name != first]
    return {name: hypervolume_difference(fronts[first], fronts[name], bootstrap) for name in others}


def _path(front: Front, weights: np.ndarray, objective: int, bootstrap: Bootstrap) -> ObjectivePath:
    order = np.argsort(weights, kind="stable")
    gains = front.rewards[..., objective] - front.base[:, None, :, objective]
    samples = [_sample(gains[:, policy]) for policy in order]
    differences = tuple(change_between(earlier, later, bootstrap) for earlier, later in pairwise(samples))
    change = change_between(samples[0], samples[-1], bootstrap)
    return ObjectivePath(
        weights=tuple(weights[order].tolist()),
        gains=tuple(estimate(sample, bootstrap) for sample in samples),
        differences=differences,
        monotone=all(may_go(difference, True) for difference in differences),
        change=change,
        rises=goes(change, True),
    )


def _sample(values: np.ndarray) -> PromptSample:
    """[seeds, prompts] as answers; a prompt is the same in every run."""
    return PromptSample({(seed, str(prompt), ""): float(value) for (seed, prompt), value in np.ndenumerate(values)})
