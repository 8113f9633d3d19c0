"""Resamples of units in strata, and the statistics that are taken of each.

A stratum of n units is resampled by drawing n - 1 of them with replacement (McCarthy and Snowden 1985; Rao and Wu,
JASA 83, 1988): the variance of the resampled mean is then s²/n, the unbiased estimate, where drawing n gives
(n - 1)/n of it, 10% too little variance at the ten clients that this field likes to use.

The draws depend on the bootstrap's seed, on the stratum and on its number of units only. Two methods scored on the
same units therefore see the same resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.seeds import numpy_generator
from fedvpa.evaluation.intervals import Bootstrap
from fedvpa.evaluation.variance import Values

Statistic = Callable[[Values], Values]
"""[..., units] → [...]: one number per row of the units' values."""

Strata = Mapping[int, Mapping[str, float]]
"""Number of the stratum → name of the unit → its value."""

DRAWS_AT_ONCE = 1 << 22
WORST_FRACTION = 0.1


def mean_of_units(values: Values) -> Values:
    """The mean over the last axis: every unit weighs the same."""
    return values.mean(axis=-1)


def worst_decile(values: Values) -> Values:
    """The mean of the worst tenth of the clients (expected shortfall at 10%), over the last axis.

    A tenth of n clients is n/10 also where that is no whole number: the client on the border counts in part. With ten
    clients or fewer it is the worst one.
    """
    mass = max(values.shape[-1] * WORST_FRACTION, 1.0)
    whole = math.floor(mass)
    count = math.ceil(mass)
    lowest = np.sort(np.partition(values, count - 1, axis=-1)[..., :count], axis=-1)
    weights = np.ones(count)
    weights[whole:] = mass - whole
    return lowest @ weights / mass


def sorted_values(stratum: Mapping[str, float]) -> Values:
    """[units] the values of a stratum, by sorted name of the unit."""
    return np.array([number for _, number in sorted(stratum.items())], dtype=np.float64)


def resampled(strata: Strata, bootstrap: Bootstrap, statistic: Statistic = mean_of_units) -> Values | None:
    """[resamples] the statistic's mean over strata in each resample; None if a stratum has a single unit."""
    if min(map(len, strata.values())) < 2:
        return None
    total = np.zeros(bootstrap.resamples)
    for stratum in sorted(strata):
        values = sorted_values(strata[stratum])
        parts = [statistic(values[rows]) for rows in rows_of_resamples(len(values), stratum, bootstrap)]
        total += np.concatenate(parts)
    return total / len(strata)


def rows_of_resamples(units: int, stratum: int, bootstrap: Bootstrap) -> Iterator[NDArray[np.int64]]:
    """[resamples, units - 1] drawn rows of one stratum, in pieces that bound the memory."""
    rng = numpy_generator(bootstrap.seed, "evaluation", "bootstrap", stratum, units)
    rows = max(1, DRAWS_AT_ONCE // (units - 1))
    for start in range(0, bootstrap.resamples, rows):
        yield rng.integers(0, units, (min(rows, bootstrap.resamples - start), units - 1))
