"""Means with their bootstrap intervals, ratios, paired differences with p-values, and Holm's correction.

Each formula reads a :class:`Sample`, whatever its units are; :mod:`fedvpa.evaluation.units` has the two kinds. Two
samples on the same units are resampled with the same draws, which makes ratios and differences paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedvpa.core.errors import ConfigError

Values = NDArray[np.float64]
Interval = tuple[float, float]
"""(low, high)"""

MIN_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are computed.

    Attributes:
        resamples: At least 2,000, so that 50 of them lie outside each end of a 95% interval; 4,000 chosen by us
            because an end then moves by about a hundredth of the interval's length from one seed to the next.
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
    """Numbers whose mean is wanted, and the units that are resampled to say how sure that mean is."""

    @property
    def numbers(self) -> Values:
        """[n] all numbers, in a fixed order."""

    @property
    def units(self) -> int:
        """How many units are resampled."""

    @property
    def seeds(self) -> list[int]:
        """The runs' seeds, sorted. They are fixed strata and never resampled."""

    @property
    def mean(self) -> float:
        """The weighted mean of the numbers."""

    def draws(self, bootstrap: Bootstrap) -> Values | None:
        """[resamples] the mean in each resample; None where the units are too few to say anything."""

    def matched(self, *others: Self) -> Sequence[Self] | None:
        """This sample and the others on what all of them have; None if that is nothing.

        Raises:
            DataError: If they are not on the same units.
        """

    def minus(self, other: Self) -> Self | None:
        """The differences by unit; None if no unit has one.

        Raises:
            DataError: If the two cannot be paired.
        """


AnySample = TypeVar("AnySample", bound=Sample)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its interval.

    Attributes:
        value: The point estimate.
        interval: None where the data cannot bound the number.
    """

    value: float
    interval: Interval | None

    @classmethod
    def of(cls, value: float, draws: Values | None, bootstrap: Bootstrap) -> Self:
        """With the percentile interval of the resampled values: None without any, or where an end is infinite."""
        if draws is None:
            return cls(value, None)
        # Order statistics, never interpolated: an infinite ratio stays infinite instead of becoming NaN.
        low, high = np.quantile(draws, [bootstrap.tail, 1 - bootstrap.tail], method="inverted_cdf")
        return cls(value, (float(low), float(high)) if np.isfinite([low, high]).all() else None)


@dataclass(frozen=True, slots=True)
class Difference:
    """Two methods compared on the same units.

    Attributes:
        estimate: Mean of first minus second, with its bootstrap interval.
        p_value: Two-sided.
        units: How many units were compared.
        seeds: The seeds both methods were run with.
    """

    estimate: Estimate
    p_value: float
    units: int
    seeds: tuple[int, ...]


def estimate(sample: Sample, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP, bounds: Interval | None = None) -> Estimate:
    """The mean and its interval.

    Args:
        sample: The numbers.
        bootstrap: How to compute the interval.
        bounds: The smallest and the largest number that there can be, where there are such. They are needed where all
            numbers are the same: every resample is then the same too, and an interval of no length would be a lie
            about the next unit. With probability at least ``level``, fewer than 1 - ((1 - level) / 2)^(1/n) of all
            units give another number (Clopper and Pearson, Biometrika 26, 1934), and those reach the bounds at most.
    """
    value = sample.mean
    if bounds is None or not _is_constant(sample):
        return Estimate.of(value, sample.draws(bootstrap), bootstrap)
    others = 1 - bootstrap.tail ** (1 / sample.units)
    return Estimate(value, (value - others * (value - bounds[0]), value + others * (bounds[1] - value)))


def ratio(first: AnySample, second: AnySample, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> Estimate | None:
    """The ratio of two means on the same units, with its paired interval; see :func:`gap_closed` on infinite ratios.

    Returns:
        None if the samples have nothing in common, or if the second mean is not above zero.

    Raises:
        DataError: If the two are not on the same units.
    """
    matched = first.matched(second)
    if matched is None:
        return None
    means = [sample.mean for sample in matched]
    if means[1] <= 0:
        return None
    draws = [sample.draws(bootstrap) for sample in matched]
    return Estimate.of(means[0] / means[1], _ratio_draws(draws[0], draws[1]), bootstrap)


def gap_closed(
    method: AnySample | None,
    low: AnySample | None,
    high: AnySample | None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Estimate | None:
    """The share of the gap between two yardsticks that a method closes: (method - low) / (high - low).

    A ratio of means over the seeds that all three were run with, not a mean of ratios. The same resampled units
    enter all three means. A resample in which ``high`` does not lead counts as plus or minus infinity, by the sign of
    the numerator; the interval is therefore None as soon as one of its ends would rest on such resamples: the lead is
    then not distinguishable from zero, and neither would Fieller's interval be bounded.

    Args:
        method: The method's numbers; None if it was not run.
        low: The yardstick worth 0 (``global``).
        high: The yardstick worth 1 (``oracle``).
        bootstrap: How to compute the interval.

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
    means = [sample.mean for sample in matched]
    lead = means[2] - means[1]
    if lead <= 0:
        return None
    draws = [sample.draws(bootstrap) for sample in matched]
    gains = (_minus(draws[0], draws[1]), _minus(draws[2], draws[1]))
    return Estimate.of((means[0] - means[1]) / lead, _ratio_draws(*gains), bootstrap)


def signed_rank_p_value(gains: Sample, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> float:
    """Two-sided Wilcoxon signed-rank test over all numbers; 1 if none differs from zero.

    It ranks numbers that are zero too and then drops them (Pratt 1959): with a few tens of test pairs per client such
    ties are common, and dropping them before ranking overstates what the others show. ``bootstrap`` is not used.
    """
    numbers = gains.numbers
    return float(stats.wilcoxon(numbers, zero_method="pratt").pvalue) if numbers.any() else 1.0


def bootstrap_p_value(gains: Sample, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> float:
    """Two-sided: twice the share of resamples on the other side of zero, of which there is always counted one more.

    Below 0.05 just where the 95% interval leaves out zero, users' spread included; a rank test over prompts would take
    the answers of one user as independent. Never below 2 / (resamples + 1). Where all differences are the same, as
    every resample then is, it is that of the sign test over units.
    """
    if not gains.numbers.any():
        return 1.0
    draws = gains.draws(bootstrap)
    if draws is None or _is_constant(gains):
        return min(1.0, 2 * 0.5**gains.units)
    tail = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (1 + tail) / (1 + len(draws)))


def difference(
    first: AnySample | None,
    second: AnySample | None,
    bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
    *,
    bounds: Interval | None = None,
    p_value: Callable[[AnySample, Bootstrap], float] = signed_rank_p_value,
) -> Difference | None:
    """First minus second, paired by unit.

    Args:
        first: The numbers of one method; None if it was not run.
        second: Those of the other.
        bootstrap: How to compute the interval.
        bounds: The smallest and the largest difference that there can be; see :func:`estimate`.
        p_value: The test, on the paired differences.

    Returns:
        None if one of the two is missing or nothing can be paired.

    Raises:
        DataError: If the two are not on the same units.
    """
    gains = None if first is None or second is None else first.minus(second)
    if gains is None:
        return None
    return Difference(estimate(gains, bootstrap, bounds), p_value(gains, bootstrap), gains.units, tuple(gains.seeds))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Scandinavian Journal of Statistics 6, 1979).

    The i-th smallest of m values is multiplied by m - i + 1 and made monotone; comparing the results with α keeps the
    probability of any false claim in the whole family below α, under any dependence.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(largest, 1.0)
    return adjusted


def _is_constant(sample: Sample) -> bool:
    numbers = sample.numbers
    return bool((numbers == numbers[0]).all())


def _minus(first: Values | None, second: Values | None) -> Values | None:
    return None if first is None or second is None else first - second


def _ratio_draws(numerator: Values | None, denominator: Values | None) -> Values | None:
    """The ratio in each resample; where the denominator is not above zero, infinite with the numerator's sign."""
    if numerator is None or denominator is None:
        return None
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, numerator / safe, np.where(numerator > 0, np.inf, -np.inf))
