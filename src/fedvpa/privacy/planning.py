"""What a federation's size, its cohorts and its rounds make of ε: before anything is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from fedvpa.core.errors import ConfigError
from fedvpa.core.options import option
from fedvpa.privacy.accounting import calibrate, check_delta, default_delta, epsilon_released, epsilon_server
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.privacy.discreteness import FEWEST_STEPS, charged, excess


@dataclass(frozen=True)
class Budget:
    """The noise of a training and what it costs.

    Attributes:
        clients: N.
        cohort: The expected number of users of a round.
        rounds: T.
        rate: q, the probability of a user to take part in a round.
        delta: δ.
        noise_multiplier: σ.
        epsilon_released: Against whoever does not see the cohorts.
        epsilon_server: Against whoever sees them, for the user who takes part most.
        participations: In how many rounds that user is expected to take part.
        epsilon_server_average: The same for a user who takes part as often as the average.
        participations_average: q T, rounded up.
        scaling_noise: σ of the release that features are standardised by, which both ε count; None without.
    """

    clients: int
    cohort: int
    rounds: int
    rate: float
    delta: float
    noise_multiplier: float
    epsilon_released: float
    epsilon_server: float
    participations: int
    epsilon_server_average: float
    participations_average: int
    scaling_noise: float | None = None

    @property
    def relative_noise(self) -> float:
        """σ over the expected cohort: how much of a clipped change the noise on the mean change is, per element."""
        return self.noise_multiplier / self.cohort


@dataclass(frozen=True)
class Noise:
    """What a federation's size and the section ``privacy`` come to.

    Attributes:
        rate: q; 1 where cohorts are not sampled, so that every user counts as there in every round.
        delta: δ.
        noise_multiplier: σ.
        once: σ of one release before the rounds, in which everybody takes part; None without.
    """

    rate: float
    delta: float
    noise_multiplier: float
    once: float | None = None


def noise_of(privacy: PrivacyConfig, clients: int, cohort: int, rounds: int) -> Noise:
    """q, δ and σ, of a section that is on and a cohort that can be drawn.

    Raises:
        ConfigError: There are fewer than two users, δ is 1/N or more, or the extra ``privacy`` is not installed.
    """
    delta = default_delta(clients) if privacy.delta is None else privacy.delta
    check_delta(delta, clients)
    rate = cohort / clients if privacy.sampling == "poisson" else 1.0
    noise = privacy.noise_multiplier
    if noise is None:
        assert privacy.epsilon is not None
        noise = calibrate(privacy.epsilon, delta, rate, rounds, once=privacy.scaling_release)
    return Noise(rate, delta, noise, privacy.scaling_release)


def plan_budget(clients: int, cohort: int, rounds: int, privacy: PrivacyConfig) -> Budget:
    """The noise that the wanted ε needs, or the ε of the noise that is given.

    Raises:
        ConfigError: There are fewer than two users, a cohort is larger than all of them, no round is wanted, δ is 1/N
            or more, neither ε nor the noise multiplier is given, or the extra ``privacy`` is not installed.
    """
    if not 1 <= cohort <= clients:
        raise ConfigError(
            f"A cohort of {cohort:,} cannot be drawn from {clients:,} users.",
            fix=f"Give {option('cohort')} from 1 to {clients}.",
        )
    if rounds < 1:
        raise ConfigError(f"{rounds} rounds release nothing.", fix=f"Give {option('rounds')} of 1 or more.")
    if not privacy.on:
        ways = f"{option('epsilon', '3')}, for the noise that it needs, or {option('noise_multiplier', '1.2')}"
        raise ConfigError("Neither ε nor a noise multiplier is given.", fix=f"Give {ways}, for its ε.")
    found = noise_of(privacy, clients, cohort, rounds)
    rate, delta, noise = found.rate, found.delta, found.noise_multiplier
    far = rounds * excess(FEWEST_STEPS, clients) if privacy.in_shares else 0.0
    sampled = privacy.sampling == "poisson"
    most, average = (
        (most_active(clients, rate, rounds), math.ceil(rate * rounds - 1e-9)) if sampled else (rounds, rounds)
    )
    return Budget(
        clients,
        cohort,
        rounds,
        rate,
        delta,
        noise,
        charged(partial(epsilon_released, noise, rate, rounds, once=found.once), delta, far),
        charged(partial(epsilon_server, noise, most, once=found.once), delta, far),
        most,
        charged(partial(epsilon_server, noise, average, once=found.once), delta, far),
        average,
        found.once,
    )


def most_active(clients: int, rate: float, rounds: int) -> int:
    """In how many of the rounds the user who takes part most is expected to, rounded up.

    Each of N users takes part K ~ Binomial(T, q) times, independently: E max K = Σ_{k ≥ 1} (1 − P(K < k)^N).
    """
    import numpy as np
    from scipy.stats import binom

    below = binom.logcdf(np.arange(rounds), rounds, rate)  # log P(K < k) for k = 1 … T
    return int(np.ceil(-np.expm1(clients * below).sum() - 1e-9))
