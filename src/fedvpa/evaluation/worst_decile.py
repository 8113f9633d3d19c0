"""The accuracy of the worst tenth of the clients, with its intervals."""

from __future__ import annotations

import math

import numpy as np

from fedvpa.evaluation.client_sample import ClientSample
from fedvpa.evaluation.intervals import DEFAULT_BOOTSTRAP, Bootstrap, Estimate
from fedvpa.evaluation.resampling import resampled, worst_decile
from fedvpa.evaluation.student import Interval, t_quantile
from fedvpa.evaluation.variance import spread_of_models, variance_if_clients_shared_nothing


def estimate_worst_decile(sample: ClientSample, bootstrap: Bootstrap = DEFAULT_BOOTSTRAP) -> Estimate:
    """The mean over seeds of :func:`fedvpa.evaluation.resampling.worst_decile` over clients, with its intervals.

    Clients are resampled within seeds. Shared pairs and few clients lengthen the interval by what they lengthen that of
    the mean, which is an approximation. The method's is Student's t over the seeds, and holds the other.
    """
    value = sample.statistic(worst_decile)
    draws = resampled(sample.strata, bootstrap, worst_decile)
    design, numbers = sample.answers()
    spread, alone = spread_of_models(design, numbers), variance_if_clients_shared_nothing(design, numbers)
    if draws is None or spread is None or alone is None:
        return Estimate(value, None)
    stretch = t_quantile(spread.degrees, bootstrap.tail) / t_quantile(math.inf, bootstrap.tail)
    stretch *= math.sqrt(spread.variance / alone) if alone > 0 else 1.0
    # Order statistics, never interpolated: with ten clients or fewer the worst is one of them.
    ends = np.quantile(draws, [bootstrap.tail, 1 - bootstrap.tail], method="inverted_cdf")
    low, high = (min(max(float(value + stretch * (end - value)), 0.0), 1.0) for end in ends)
    return Estimate(value, (low, high), _over_seeds(sample, (low, high), bootstrap))


def _over_seeds(sample: ClientSample, models: Interval, bootstrap: Bootstrap) -> Interval | None:
    """Student's t over the worst tenths of the seeds, at least as wide as ``models``; None with a single seed."""
    found = np.array([float(worst_decile(sample.values(seed))) for seed in sample.seeds])
    if len(found) < 2:
        return None
    half = t_quantile(len(found) - 1, bootstrap.tail) * float(found.std(ddof=1)) / math.sqrt(len(found))
    mean = float(found.mean())
    return min(models[0], max(mean - half, 0.0)), max(models[1], min(mean + half, 1.0))
