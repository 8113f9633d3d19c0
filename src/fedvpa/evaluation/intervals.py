"""Means with their intervals, ratios, and paired differences with their p-values.

Each formula reads a :class:`Sample`, whatever its units are; there are two kinds,
:mod:`fedvpa.evaluation.client_sample` and :mod:`fedvpa.evaluation.prompt_sample`. Every number has two intervals: of
these trained models, and of the method, whose training seeds vary too; see :mod:`fedvpa.evaluation.variance`, and
``benchmarks/interval_coverage.py`` for how often they hold the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np

from fedvpa.core.errors import ConfigError
from fedvpa.evaluation.student import (
    Interval,
    constant_interval,
    fieller_interval,
    is_constant,
    p_value,
    t_interval,
)
from fedvpa.evaluation.variance import Design, Values, spread_of_method, spread_of_models

MIN_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are computed.

    Attributes:
        resamples: Of what has no closed form, which is the worst tenth of clients. At least 2,000, so that 50 of them
            lie outside each end of a 95% interval; 4,000 chosen by us because an end then moves by about a hundredth
            of the interval's length from one seed to the next.
        level: Coverage of the interval.
        seed: Seed of the resampling streams.

    Raises:
        ConfigError: For too few resamples, or a level that is not between 0 and 1.
    """

    resamples: int = 4000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < MIN_RESAMPLES:
            raise ConfigError(
                f"{self.resamples} resamples are too few for an interval.", fix=f"Use {MIN_RESAMPLES} or more."
            )
        if not 0 < self.level < 1:
            raise ConfigError(f"level {self.level} is not between 0 and 1.", fix="The usual one is 0.95.")

    @property
    def tail(self) -> float:
        """The probability outside each end of the interval."""
        return (1 - self.level) / 2


DEFAULT_BOOTSTRAP = Bootstrap()


class Sample(Protocol):
    """Answers whose mean is wanted, and what they share, which says how sure that mean is."""

    @property
    def units(self) -> int:
        """How many units are counted: clients by seed, or prompts."""

    @property
    def seeds(self) -> list[int]:
        """The runs' seeds, sorted."""

    @property
    def mean(self) -> float:
        """The weighted mean of the answers."""

    def answers(self) -> tuple[Design, Values]:
        """What the answers share and count, and [n] their values."""

    def matched(self, *others: Self) -> Sequence[Self] | None:
        """This sample and the others on what all of them have; None if that is nothing.

        Raises:
            DataError: If they are not on the same units.
        """

    def aligned(self, other: Self) -> Values:
        """[n] the values of a matched sample at this sample's answers."""

    def minus(self, other: Self) -> Self | None:
        """The differences by answer; None if nothing has one.

        Raises:
            DataError: If the two cannot be paired.
        """


AnySample = TypeVar("AnySample", bound=Sample)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its intervals.

    Attributes:
        value: The point estimate.
        interval: Of these trained models, on other people and other pairs or prompts; None where the data cannot bound
            the number.
        method: The same for other training seeds too: what it says of the method. None with a single seed.
    """

    value: float
    interval: Interval | None
    method: Interval | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """Two methods compared on the same units.

    Attributes:
        estimate: Mean of first minus second, with its intervals.
        p_value: Two-sided, of these trained models.
        method_p_value: Two-sided, of the methods, over training seeds too; None with a single seed.
        units: How many units were compared.
        seeds: The seeds both methods were run with.
    """

    estimate: Estimate
    p_value: float
    method_p_value: float | None
    units: int
    seeds: tuple[int, ...]


def estimate(sample: Sample, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP, bounds: Interval | None = None) -> Estimate:
    """The mean and its intervals: Student's t with the variances of :mod:`fedvpa.evaluation.variance`.

    Args:
        sample: The answers.
        bootstrap: The level.
        bounds: The smallest and the largest number that there can be, where there are such. The interval is then
            computed on the logarithm of the odds, so that it stays between them. Where all numbers are the same, an
            interval of no length would be a lie about the next unit: see
            :func:`fedvpa.evaluation.student.constant_interval`. Units are seeds where the claim is about the method.
    """
    design, values = sample.answers()
    value = sample.mean
    spreads = spread_of_models(design, values), spread_of_method(design, values)
    if bounds is not None and is_constant(values):
        counts = zip(spreads, (sample.units, len(sample.seeds)), strict=True)
        exact = (
            constant_interval(value, bounds, count, bootstrap.tail) if spread else None for spread, count in counts
        )
        return Estimate(value, *exact)
    return Estimate(value, *(t_interval(value, spread, bounds, bootstrap.tail) for spread in spreads))


def ratio(first: AnySample, second: AnySample, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> Estimate | None:
    """The ratio of two means on the same units, with its paired intervals by Fieller's theorem.

    They hold every θ for which first - θ second is not distinguishable from zero (Fieller, Journal of the Royal
    Statistical Society B 16, 1954), and are None where that set is not bounded: the second mean is then not
    distinguishable from zero.

    Returns:
        None if the samples have nothing in common, or if the second mean is not above zero.

    Raises:
        DataError: If the two are not on the same units.
    """
    matched = first.matched(second)
    if matched is None:
        return None
    above, below = matched
    if below.mean <= 0:
        return None
    design, values = above.answers()
    return _fieller(design, np.stack([values, above.aligned(below)], axis=1), (above.mean, below.mean), bootstrap)


def gap_closed(
    method: AnySample | None,
    low: AnySample | None,
    high: AnySample | None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Estimate | None:
    """The share of the gap between two yardsticks that a method closes: (method - low) / (high - low).

    A ratio of means over the seeds that all three were run with, not a mean of ratios; its intervals are those of
    :func:`ratio`, paired, and None where the lead of ``high`` is not distinguishable from zero.

    Args:
        method: The method's numbers; None if it was not run.
        low: The yardstick worth 0 (``global``).
        high: The yardstick worth 1 (``oracle``).
        bootstrap: The level.

    Returns:
        None if one of the three is missing, they share no seed, or ``high`` does not lead.

    Raises:
        DataError: If the three are not on the same units.
    """
    if method is None or low is None or high is None:
        return None
    matched = method.matched(low, high)
    if matched is None:
        return None
    own, bottom, top = matched
    gain, lead = own.minus(bottom), top.minus(bottom)
    return None if gain is None or lead is None else ratio(gain, lead, bootstrap)


def difference(
    first: AnySample | None,
    second: AnySample | None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    *,
    bounds: Interval | None = None,
) -> Difference | None:
    """First minus second, paired by answer.

    The p-values are those of the intervals: below 0.05 just where the 95% interval leaves out zero. Where all
    differences are the same, it is that of the sign test over units, or over seeds.

    Args:
        first: The numbers of one method; None if it was not run.
        second: Those of the other.
        bootstrap: The level.
        bounds: The smallest and the largest difference that there can be; see :func:`estimate`.

    Returns:
        None if one of the two is missing or nothing can be paired.

    Raises:
        DataError: If the two are not on the same units.
    """
    gains = None if first is None or second is None else first.minus(second)
    if gains is None:
        return None
    design, values = gains.answers()
    found = estimate(gains, bootstrap, bounds)
    counts = (gains.units, len(gains.seeds))
    spreads = spread_of_models(design, values), spread_of_method(design, values)
    fixed, over_seeds = (
        p_value(found.value, None if is_constant(values) else spread, bounds, count)
        for spread, count in zip(spreads, counts, strict=True)
    )
    return Difference(found, fixed, None if counts[1] < 2 else over_seeds, counts[0], tuple(gains.seeds))


def _fieller(design: Design, values: Values, means: tuple[float, float], bootstrap: Bootstrap) -> Estimate:
    """The ratio of the means of two columns, with the intervals of these models and of the method."""
    share = means[0] / means[1]
    direction = np.array([1.0, -share])
    spreads = spread_of_models(design, values, direction), spread_of_method(design, values, direction)
    return Estimate(
        share, *(None if spread is None else fieller_interval(spread, means, bootstrap.tail) for spread in spreads)
    )
