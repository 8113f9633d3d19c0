"""Fronts of policies under several rewards: the volume that they dominate over the base policy, and how sure it is.

The hypervolume of a set of points over a reference point is the volume of all that lies above the reference and below
some point (Zitzler and Thiele, IEEE Transactions on Evolutionary Computation 3, 1999). Here a point is a policy, with
its mean reward over prompts under each objective, and the reference is the base policy. It is exact: a sweep for two
objectives, slices along the last objective for more (While et al., IEEE Transactions on Evolutionary Computation 10,
2006). Fronts can be compared if their prompts, base answers and units of reward are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate
from fedvpa.evaluation.resampling import rows_of_resamples
from fedvpa.evaluation.student import Interval, t_interval
from fedvpa.evaluation.variance import Spread, Values, satterthwaite


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Front:
    """What the policies of one method are worth, run by run, on the same prompts.

    Attributes:
        rewards: Of each policy's answer to each prompt; the mean, where a prompt has several answers.
        base: Of the base policy's.

    Raises:
        DataError: If there is no policy, run or objective, the shapes do not fit, or a reward is no finite number.
    """

    rewards: Float[np.ndarray, "seeds policies prompts objectives"]
    base: Float[np.ndarray, "seeds prompts objectives"]

    __repr__ = short_repr

    def __post_init__(self) -> None:
        seeds, _, prompts, objectives = self.rewards.shape
        if self.base.shape != (seeds, prompts, objectives) or not self.rewards.size:
            raise DataError(
                f"rewards of shape {self.rewards.shape} and base rewards of shape {self.base.shape} are no front.",
                fix="Give (seeds, policies, prompts, objectives) and (seeds, prompts, objectives).",
            )
        if not (np.isfinite(self.rewards).all() and np.isfinite(self.base).all()):
            raise DataError("a reward of a front is no finite number.", fix="Leave its prompt out for every policy.")

    @property
    def gains(self) -> Float[np.ndarray, "seeds policies objectives"]:
        """Mean reward of each policy above the base policy's."""
        return self.rewards.mean(2) - self.base.mean(1)[:, None]

    @property
    def columns(self) -> Float[np.ndarray, "prompts columns"]:
        """All that is known of each prompt, beside each other: gains of every run, policy and objective."""
        gains = self.rewards - self.base[:, None]
        return np.moveaxis(gains, 2, 0).reshape(gains.shape[2], -1)


def hypervolume(points: Float[np.ndarray, "*batch n objectives"]) -> Float[np.ndarray, "*batch"]:
    """The volume that points dominate over the origin; what is below the origin in an objective counts as zero there.

    Args:
        points: Gains over the reference point, for any leading axes; n is 1 or more.
    """
    return _dominated(np.maximum(points, 0.0))


def hypervolume_of(front: Front, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> Estimate:
    """The hypervolume of a method's policies over the base policy: the mean over runs, with its intervals.

    Args:
        front: The method's.
        bootstrap: Resamples, level and seed.

    Returns:
        In the product of the units of the objectives. The interval of these trained policies is over prompts, that of
        the method over training seeds too (None with a single seed); see :func:`_estimate`.
    """
    shape = front.rewards.shape
    found = _estimate(front.columns, lambda means: _by_seed(means, shape), shape[0], bootstrap)
    return Estimate(found.value, _not_below_zero(found.interval), _not_below_zero(found.method))


def hypervolume_difference(first: Front, second: Front, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> Estimate:
    """The hypervolume of the first front minus that of the second, paired by run and prompt.

    Raises:
        DataError: If the two are not over the same base answers.
    """
    if first.base.shape != second.base.shape or not np.allclose(first.base, second.base):
        raise DataError(
            "two fronts are over different answers of the base policy.",
            fix="Judge both on the same prompts, runs and base answers.",
        )
    columns, cut = np.concatenate([first.columns, second.columns], axis=1), first.columns.shape[1]

    def both(means: Values) -> Values:
        one, other = means[..., :cut], means[..., cut:]
        return _by_seed(one, first.rewards.shape) - _by_seed(other, second.rewards.shape)

    return _estimate(columns, both, first.rewards.shape[0], bootstrap)


def _dominated(points: Values) -> Values:
    """Sorted along the last objective, each slice is as high as its point lies above the next lower one."""
    if points.shape[-1] == 1:
        highest: Values = points.max(axis=(-2, -1))
        return highest
    order = np.argsort(-points[..., -1], axis=-1, kind="stable")
    ordered = np.take_along_axis(points, order[..., None], axis=-2)
    tops = ordered[..., -1]
    heights = tops - np.concatenate([tops[..., 1:], np.zeros_like(tops[..., :1])], axis=-1)
    slices = [_dominated(ordered[..., : place + 1, :-1]) for place in range(points.shape[-2])]
    total: Values = (heights * np.stack(slices, axis=-1)).sum(axis=-1)
    return total


def _by_seed(means: Values, shape: tuple[int, ...]) -> Values:
    """[..., seeds] the hypervolume of each run, from the mean of each of :attr:`Front.columns`."""
    seeds, policies, _, objectives = shape
    return hypervolume(means.reshape(*means.shape[:-1], seeds, policies, objectives))


def _estimate(columns: Values, volumes: Callable[[Values], Values], seeds: int, bootstrap: Bootstrap) -> Estimate:
    """Student's t with a bootstrap variance.

    Prompts are what all runs and policies share, so they are resampled once for all. Of the method, the variance of
    the mean over training seeds is added to that over prompts: what a run and its prompts do together is counted in
    both, which can only make the interval longer.
    """
    prompts = len(columns)
    runs = volumes(columns.mean(0))
    value = float(runs.mean())
    if prompts < 2:
        return Estimate(value, None, None)
    draws = np.concatenate([volumes(part).mean(-1) for part in _resampled_means(columns, bootstrap)])
    over_prompts = (np.array([[draws.var(ddof=1)]]), prompts - 1.0)
    interval = t_interval(value, Spread(*over_prompts), None, bootstrap.tail)
    if seeds < 2:
        return Estimate(value, interval, None)
    over_seeds = (np.array([[runs.var(ddof=1) / seeds]]), seeds - 1.0)
    degrees = satterthwaite([over_prompts, over_seeds], np.ones(1))
    spread = Spread(over_prompts[0] + over_seeds[0], degrees)
    return Estimate(value, interval, t_interval(value, spread, None, bootstrap.tail))


def _resampled_means(columns: Values, bootstrap: Bootstrap) -> list[Values]:
    """[resamples, columns] the mean of each column over each resample of prompts, in pieces."""
    prompts = len(columns)
    pieces = []
    for rows in rows_of_resamples(prompts, 0, bootstrap):
        places = rows + prompts * np.arange(len(rows))[:, None]
        counts = np.bincount(places.ravel(), minlength=prompts * len(rows)).reshape(len(rows), prompts)
        pieces.append(counts @ columns / (prompts - 1))
    return pieces


def _not_below_zero(interval: Interval | None) -> Interval | None:
    return None if interval is None else (max(0.0, interval[0]), interval[1])
