"""What a training with noise costs: ε for all that was released, and the noise that a wanted ε needs.

In each round the sum over a cohort gets Gaussian noise of standard deviation σ times the most that one user can change,
once. The unit is a user with all that they hold, and neighbouring federations differ by one user more or less.

Two figures, for two who look on:

- ``epsilon_released``: for whoever does not see who took part, such as other participants and who holds the released
  model. Every user takes part by an independent coin of probability q in each round (Poisson sampling), which amplifies
  privacy. Tight composition by privacy loss distributions (Koskela, Jälkö, Honkela, AISTATS 2020; Doroshenko et al.,
  PoPETs 2022 for the discretisation), from the library dp-accounting. Discretisation rounds up: the true ε is never
  above.
- ``epsilon_server``: for whoever sees the cohorts beside the noised sums, as an operator with a server's logs does. A
  user who took part k times has k Gaussian releases, which together are one of noise σ/√k; its (ε, δ) has a closed
  form (Balle and Wang, ICML 2018, theorem 8), so nothing is approximated.

Neither holds for a server that adds the noise: it has the sums before, and the key of the noise. Where nodes add it
(:mod:`fedvpa.privacy.shares`), ``epsilon_server`` holds for the server.

Several trainings on the same users compose: the loss of all of them is the sum of theirs (``epsilon_composed``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from fedvpa.core.errors import ConfigError

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

SMALLEST_DELTA = 1e-15
"""Below it, δ is no longer far above the mass that the accountant cuts from the tails (e⁻⁵⁰) and rounding."""

STEPS_PER_DEVIATION = 20
"""How many discretisation steps one standard deviation of a round's privacy loss has. Chosen by us: ε is then within
0.1% of what ten times as many give."""

SMALLEST_SAMPLED = 0.01
"""Below this noise multiplier the loss of a sampled round is no number that a computer holds, and ε is stated without
amplification, which is never less: above a thousand for one release in any case."""

PRECISION = 1e-4
"""How far above the smallest noise ``calibrate`` may be, relative to it. Chosen by us."""


@dataclass(frozen=True)
class Releases:
    """The noised sums of one training.

    Attributes:
        noise_multiplier: σ, the noise's standard deviation over the most that one user changes a sum.
        rate: q, the probability with which each user takes part in a sum, by a coin of their own; 1 for no
            amplification.
        rounds: How many sums there are.
    """

    noise_multiplier: float
    rate: float
    rounds: int


def default_delta(clients: int) -> float:
    """N^−1.1, the δ of a federation of N users unless one is given: below 1/N, as δ must be (see ``check_delta``)."""
    _at_least_two(clients)
    return float(clients) ** -1.1


def check_delta(delta: float, clients: int) -> None:
    """Refuse a δ that protects nobody.

    A mechanism that publishes one user in N at random, with all they hold, has (0, 1/N). So δ must be below 1/N (Dwork
    and Roth, 2014, section 2.3).

    Raises:
        ConfigError: δ is 1/N or more, or there are fewer than two users.
    """
    _at_least_two(clients)
    if delta >= 1 / clients:
        raise ConfigError(
            f"delta = {delta:.3g} with {clients:,} users. Delta must be below 1/N = {1 / clients:.3g}: to publish one "
            "user in N at random would satisfy it.",
            fix=f"Give {default_delta(clients):.3g} (N^-1.1) or less, or leave it out.",
            where="privacy.delta",
        )


def epsilon_released(
    noise_multiplier: float, rate: float, rounds: int, delta: float, *, once: float | None = None
) -> float:
    """ε of all rounds together, against whoever does not see the cohorts.

    Args:
        noise_multiplier: σ, the noise's standard deviation over the most that one user changes the sum.
        rate: q, the probability with which each user takes part in a round; 1 for no amplification.
        rounds: How many rounds were released; ε of none is 0.
        delta: δ.
        once: The noise multiplier of one further release, in which every user took part: such as that of the features'
            moments before the first round. None for no such release.

    Raises:
        ConfigError: A number is outside its range, or the extra ``privacy`` is not installed.
    """
    _check(noise_multiplier, delta, rounds=rounds, rate=rate, once=once)
    further = [] if once is None else [Releases(once, 1.0, 1)]
    return epsilon_composed([Releases(noise_multiplier, rate, rounds), *further], delta)


def epsilon_composed(trainings: Sequence[Releases], delta: float) -> float:
    """ε of several trainings on the same users together, against whoever does not see their cohorts.

    A later training may follow from what earlier ones released (adaptive composition), and its coins are independent
    of theirs. With ``rate`` 1 and a user's participations for ``rounds`` it is the figure against who sees the cohorts.

    Args:
        trainings: What each released.
        delta: δ, of all of them together.

    Raises:
        ConfigError: A number is outside its range, or the extra ``privacy`` is not installed.
    """
    for one in trainings:
        _check(one.noise_multiplier, delta, rounds=one.rounds, rate=one.rate)
    counted = [one for one in trainings if one.rounds]
    sampled = [one for one in counted if one.rate < 1]
    spent = sum(one.rounds / one.noise_multiplier**2 for one in counted if one.rate == 1)
    if not sampled or min(one.noise_multiplier for one in counted) < SMALLEST_SAMPLED:
        return _gaussian(spent + sum(one.rounds / one.noise_multiplier**2 for one in sampled), delta)
    return _sampled(tuple(sampled), float(spent), float(delta))


def epsilons_released(
    noise_multiplier: float, rate: float, delta: float, *, once: float | None = None, released: int = 0
) -> Iterator[float]:
    """``epsilon_released`` of one round more at a time: each is composed onto the last, in milliseconds.

    Args:
        noise_multiplier: σ; like ``rate`` and ``delta`` as of :func:`epsilon_released`.
        rate: q.
        delta: δ.
        once: As of :func:`epsilon_released`.
        released: How many rounds were released before: the first number is that of ``released + 1``.

    Raises:
        ConfigError: As :func:`epsilon_released`, when the first number is asked for.
    """
    _check(noise_multiplier, delta, rounds=released, rate=rate, once=once)
    if rate == 1 or noise_multiplier < SMALLEST_SAMPLED:
        while True:
            released += 1
            yield epsilon_released(noise_multiplier, rate, released, delta, once=once)
    first = [Releases(float(noise_multiplier), float(rate), 1)]
    one, found = _composed(first, 0.0), _composed(first, 0.0 if once is None else once**-2)
    for _ in range(released):  # in the order of a run that was never stopped, which gives the same bits
        found = found.compose(one)
    while True:
        yield float(found.get_epsilon_for_delta(delta))
        found = found.compose(one)


def epsilon_server(noise_multiplier: float, participations: int, delta: float, *, once: float | None = None) -> float:
    """ε against who sees the cohorts, for a user who took part in so many rounds: without amplification.

    Args:
        noise_multiplier: σ, as in ``epsilon_released``.
        participations: In how many rounds the user took part; ε of none is 0.
        delta: δ.
        once: As in ``epsilon_released``.

    Raises:
        ConfigError: A number is outside its range, or the extra ``privacy`` is not installed.
    """
    _check(noise_multiplier, delta, rounds=participations, once=once)
    return epsilon_released(noise_multiplier, 1.0, participations, delta, once=once)


def calibrate(
    epsilon: float,
    delta: float,
    rate: float,
    rounds: int,
    participations: int | None = None,
    *,
    once: float | None = None,
) -> float:
    """The smallest noise multiplier, to four digits, with which ε is not exceeded.

    Args:
        epsilon: The ε to stay within.
        delta: δ.
        rate: q; see ``epsilon_released``, which this inverts.
        rounds: How many rounds there will be, at least 1.
        participations: If given, ``epsilon_server`` of a user who takes part so often is inverted in its place.
        once: As in ``epsilon_released``.

    Raises:
        ConfigError: A number is outside its range, the release ``once`` alone costs ε, or the extra is not installed.
    """
    counted = rounds if participations is None else participations
    _check(1.0, delta, rounds=counted, rate=rate, once=once)
    if not epsilon > 0 or counted < 1:
        raise ConfigError(f"ε = {epsilon:g} in {counted} rounds: ε must be above 0, and rounds at least 1.")
    dearest = _noise_of_gaussian(epsilon, delta)
    if once is not None and once <= dearest:
        raise ConfigError(
            f"A release with noise multiplier {once:g} alone costs ε = {_gaussian(once**-2, delta):.3g}, and "
            f"ε = {epsilon:g} is all there is.",
            fix=f"Give that release a noise multiplier above {dearest:.3g}, or a larger ε.",
        )
    left = 1 / dearest**2 - (0 if once is None else 1 / once**2)  # of what Gaussian releases spend: they add in 1/σ²
    unsampled = math.sqrt(counted / left)
    if participations is not None or rate == 1:
        return unsampled * (1 + PRECISION)  # away from rounding in the closed form
    return _smallest(epsilon, delta, rate, rounds, unsampled, once)


def _smallest(epsilon: float, delta: float, rate: float, rounds: int, enough: float, once: float | None) -> float:
    """σ of a sampled mechanism, sought downwards from ``enough``, which holds without sampling and so with it too."""
    from scipy.optimize import brentq

    def excess(log_noise: float) -> float:
        found = epsilon_released(math.exp(log_noise), rate, rounds, delta, once=once)
        return math.log(max(found / epsilon, 1e-9))  # ε is 0 where δ alone covers all

    high = low = math.log(enough)
    while excess(low) <= 0:
        high, low = low, low - math.log(2)
    found = high if low == high else float(brentq(excess, low, high, xtol=PRECISION / 4))
    while excess(found) > 0:  # the root may lie on the side that is too dear
        found += PRECISION / 4
    return math.exp(found)


@lru_cache(maxsize=4096)
def _sampled(trainings: tuple[Releases, ...], spent: float, delta: float) -> float:
    return float(_composed(trainings, spent).get_epsilon_for_delta(delta))


def _composed(trainings: Sequence[Releases], spent: float) -> PrivacyLossDistribution:
    """The loss of sampled trainings, and of Gaussian releases that together have 1/σ² = ``spent``."""
    step = _step(trainings)
    parts = [_distribution(one.noise_multiplier, one.rate, step).self_compose(one.rounds) for one in trainings]
    parts += [_distribution(spent**-0.5, 1.0, step)] if spent else []
    found = parts[0]
    for other in parts[1:]:
        found = found.compose(other)
    return found


@lru_cache(maxsize=64)
def _distribution(noise_multiplier: float, rate: float, step: float) -> PrivacyLossDistribution:
    """The privacy loss of one Poisson-sampled Gaussian release, add/remove, rounded up to multiples of ``step``."""
    require()
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    return from_gaussian_mechanism(
        noise_multiplier,
        sensitivity=1.0,
        pessimistic_estimate=True,
        value_discretization_interval=step,
        sampling_prob=rate,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )


def _step(trainings: Sequence[Releases]) -> float:
    """The discretisation: fine beside the deviation of a round's loss, and no finer than pays.

    The deviation is q √(e^{1/σ²} − 1), its root mean square over all rounds of all trainings: what is added up has that
    of their sum, so a training that costs next to nothing asks for no finer steps.
    """
    rounds = sum(one.rounds for one in trainings)
    squares = [one.rate**2 * math.expm1(min(one.noise_multiplier**-2, 50.0)) for one in trainings]
    mean = sum(one.rounds / rounds * square for one, square in zip(trainings, squares, strict=True))
    coarsest = min(max(1e-3, 1e-4 * one.noise_multiplier**-2) for one in trainings)
    return min(math.sqrt(mean) / STEPS_PER_DEVIATION, coarsest)


@lru_cache(maxsize=4096)
def _gaussian(spent: float, delta: float) -> float:
    """ε of Gaussian releases without sampling: together they are one, of 1/σ² = ``spent``."""
    if spent == 0:
        return 0.0
    require()
    from dp_accounting import get_epsilon_gaussian

    return float(get_epsilon_gaussian(spent**-0.5, delta))


def _noise_of_gaussian(epsilon: float, delta: float) -> float:
    require()
    from dp_accounting import get_sigma_gaussian

    return float(get_sigma_gaussian(epsilon, delta))


def require() -> None:
    """Say which extra is missing, before anything is computed.

    Raises:
        ConfigError: dp-accounting is not installed.
    """
    try:
        import dp_accounting  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "Privacy accounting needs dp-accounting, which is not installed.", fix="pip install 'fedvpa[privacy]'."
        ) from error


def _at_least_two(clients: int) -> None:
    if clients < 2:
        raise ConfigError(f"{clients} users: one user among others is protected, so there must be at least 2.")


def _check(noise_multiplier: float, delta: float, *, rounds: int, rate: float = 1.0, once: float | None = None) -> None:
    """The ranges of what both figures take."""
    problems = [
        (
            not (noise_multiplier > 0 and math.isfinite(noise_multiplier)),
            "the noise multiplier",
            noise_multiplier,
            ">0",
        ),
        (not 0 < rate <= 1, "the probability to take part", rate, "above 0, at most 1"),
        (not SMALLEST_DELTA <= delta < 1, "delta", delta, f"at least {SMALLEST_DELTA:g}, below 1"),
        (rounds < 0, "the number of rounds", rounds, "0 or more"),
        (
            once is not None and not (once > 0 and math.isfinite(once)),
            "the noise multiplier of one release",
            once,
            ">0",
        ),
    ]
    for wrong, what, value, needed in problems:
        if wrong:
            raise ConfigError(f"Privacy accounting: {what} is {value}, and must be {needed}.")
