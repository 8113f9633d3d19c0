"""Resamples of units in strata, and the statistics that are taken of each.

A stratum of n units is resampled by drawing n - 1 of them with replacement (McCarthy and Snowden 1985; Rao and Wu,
JASA 83, 1988): the variance of the resampled mean is then s²/n, the unbiased estimate, where drawing n gives
(n - 1)/n of it, 10% too little variance at the ten clients that this field likes to use.

The draws depend on the bootstrap's seed, on the stratum and on its number of units only. Two methods scored on the
same units therefore see the same resamples.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.seeds import numpy_generator
from fedvpa.evaluation.intervals import Bootstrap, Values

Statistic = Callable[[Values], Values]
"""[..., units] → [...]: one number per row of the units' values."""

Strata = Mapping[int, Mapping[str, float]]
"""Number of the stratum → name of the unit → its value."""

DRAWS_AT_ONCE = 1 << 22
WORST_FRACTION = 0.1

AnswerKey = tuple[int, str, str]
"""(seed, prompt, user id)"""

PROMPTS, USERS = 0, 1
"""The stratum, and with it the random stream, of each level of answers to prompts."""


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
        parts = [statistic(values[rows]) for rows in _rows(len(values), stratum, bootstrap)]
        total += np.concatenate(parts)
    return total / len(strata)


def crossed_draws(mean: float, residuals: Mapping[AnswerKey, float], bootstrap: Bootstrap) -> Values | None:
    """Resamples of a mean over answers, whose two levels are prompts and users.

    A user whose z is wrong loses on all prompts at once, and no number of prompts shows how often that happens. The
    two levels cross (a prompt has several users, a user several prompts), so neither can be resampled inside the
    other. The variance of a mean over two crossed levels is

        V = V_prompts + V_users - V_answers

    (Cameron, Gelbach and Miller, "Robust Inference with Multiway Clustering", Journal of Business & Economic
    Statistics 29, 2011), each term as if its units were independent. The two resampled means are added, the users'
    deviation scaled by sqrt((V_users - V_answers) / V_users): what users vary by beyond the noise of their answers,
    which the prompts carry already; nothing where that is not above zero. The scaling is ours. Users of different
    seeds are different users.

    For unequal numbers of answers, a unit's value is the linear one: the mean, plus the number of units times the
    unit's weighted residuals. For equal numbers it is the unit's plain mean, moved by what its seed lies off the mean
    of seeds.

    Args:
        mean: The weighted mean of the answers.
        residuals: Each answer's weighted deviation from its seed's mean; an empty user id where no user is known.
        bootstrap: How to resample.

    Returns:
        [resamples] means; None for a single prompt.
    """
    by_prompt = resampled({PROMPTS: _linear_values(mean, residuals, PROMPTS)}, bootstrap)
    if by_prompt is None or len({(seed, user) for seed, _, user in residuals if user}) < 2:
        return by_prompt
    users = _linear_values(mean, residuals, USERS)
    by_user = resampled({USERS: users}, bootstrap)
    share = _user_share(sorted_values(users), np.array(list(residuals.values())))
    return by_prompt if by_user is None else by_prompt + share * (by_user - mean)


def _linear_values(mean: float, residuals: Mapping[AnswerKey, float], level: int) -> dict[str, float]:
    """The linear value of every prompt or of every user."""
    sums: dict[str, list[float]] = defaultdict(list)
    for (seed, prompt, user), residual in residuals.items():
        sums[prompt if level == PROMPTS else f"{seed} {user}"].append(residual)
    return {unit: mean + len(sums) * math.fsum(found) for unit, found in sorted(sums.items())}


def _user_share(users: Values, answers: Values) -> float:
    """How much of the users' deviation is not the noise of their answers."""
    of_answers = len(answers) * answers.var(ddof=1)
    of_users = users.var(ddof=1) / len(users)
    return math.sqrt(max(0.0, 1 - of_answers / of_users)) if of_users > 0 else 0.0


def _rows(units: int, stratum: int, bootstrap: Bootstrap) -> Iterator[NDArray[np.int64]]:
    """[resamples, units - 1] drawn rows of one stratum, in pieces that bound the memory."""
    rng = numpy_generator(bootstrap.seed, "evaluation", "bootstrap", stratum, units)
    rows = max(1, DRAWS_AT_ONCE // (units - 1))
    for start in range(0, bootstrap.resamples, rows):
        yield rng.integers(0, units, (min(rows, bootstrap.resamples - start), units - 1))
