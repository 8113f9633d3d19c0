"""Intervals and p-values of means and ratios, by Student's t."""

from __future__ import annotations

import math

from scipy.special import expit, stdtr, stdtrit

from fedvpa.evaluation.variance import Spread, Values

Interval = tuple[float, float]
"""(low, high)"""

TINY = 1e-12
"""How near to a bound a mean is taken to be at least, so that its odds are finite."""


def t_quantile(degrees: float, tail: float) -> float:
    """How many standard errors lie on each side of an interval with ``tail`` outside each end."""
    return float(stdtrit(degrees, 1 - tail))


def is_constant(values: Values) -> bool:
    """Whether all numbers are the same."""
    return bool((values == values[0]).all())


def t_interval(value: float, spread: Spread | None, bounds: Interval | None, tail: float) -> Interval | None:
    """Student's t interval, on the logarithm of the odds between ``bounds`` where there are such."""
    if spread is None:
        return None
    half = t_quantile(spread.degrees, tail) * math.sqrt(spread.variance)
    if bounds is None:
        return value - half, value + half
    odds, slope = _odds(value, bounds)
    return _from_odds(odds - half * slope, bounds), _from_odds(odds + half * slope, bounds)


def constant_interval(value: float, bounds: Interval, count: int, tail: float) -> Interval:
    """Where ``count`` units gave one and the same number: what the units that would give another can move it by.

    With probability at least 1 - 2 ``tail``, fewer than 1 - tail^(1/count) of all units do (Clopper and Pearson,
    Biometrika 26, 1934), and those reach the bounds at most.
    """
    others = 1 - tail ** (1 / count)
    return value - others * (value - bounds[0]), value + others * (bounds[1] - value)


def p_value(value: float, spread: Spread | None, bounds: Interval | None, count: int) -> float:
    """Two-sided, that the mean is zero; by the sign test where there is no spread to judge it by."""
    if value == 0:
        return 1.0
    if spread is None or spread.variance <= 0:
        return min(1.0, 2 * 0.5**count)
    distance, error = value, math.sqrt(spread.variance)
    if bounds is not None:
        odds, slope = _odds(value, bounds)
        distance, error = odds - _odds(0.0, bounds)[0], error * slope
    return min(1.0, 2 * float(stdtr(spread.degrees, -abs(distance) / error)))


def _odds(value: float, bounds: Interval) -> tuple[float, float]:
    """The logarithm of the odds of a number between two bounds, and its slope there.

    A mean of numbers that differ lies inside the bounds, but not always by more than rounding.
    """
    width = bounds[1] - bounds[0]
    share = min(max((value - bounds[0]) / width, TINY), 1 - TINY)
    return math.log(share / (1 - share)), 1 / (width * share * (1 - share))


def _from_odds(odds: float, bounds: Interval) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * float(expit(odds))


def fieller_interval(spread: Spread, means: tuple[float, float], tail: float) -> Interval | None:
    """The ends of Fieller's set: the roots of (a - θb)² = t² Var(a - θb); None where it is not bounded."""
    square = t_quantile(spread.degrees, tail) ** 2
    (above, both), (_, below) = spread.covariance
    curve = means[1] ** 2 - square * below
    if curve <= 0:
        return None
    middle = (means[0] * means[1] - square * both) / curve
    room = max(0.0, middle**2 - (means[0] ** 2 - square * above) / curve)
    return middle - math.sqrt(room), middle + math.sqrt(room)
