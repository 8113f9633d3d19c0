"""ε of a training with noise, against closed forms, planning values and simulated privacy losses."""

import math
import sys

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from fedvpa.core.errors import ConfigError
from fedvpa.privacy.accounting import (
    Releases,
    calibrate,
    check_delta,
    default_delta,
    epsilon_composed,
    epsilon_released,
    epsilon_server,
    epsilons_released,
    require,
)

pytestmark = pytest.mark.reference


def delta_of_gaussian(sigma, epsilon):
    """Balle and Wang 2018, theorem 8, sensitivity 1."""
    a, b = 1 / (2 * sigma), epsilon * sigma
    return norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b)


@pytest.mark.parametrize(("sigma", "times", "delta"), [(1.21, 5, 1e-4), (3.0, 1, 1e-5), (20.0, 50, 1e-3)])
def test_without_sampling_epsilon_is_the_closed_form(sigma, times, delta):
    expected = brentq(lambda epsilon: delta_of_gaussian(sigma / math.sqrt(times), epsilon) - delta, 0, 100)
    assert epsilon_server(sigma, times, delta) == pytest.approx(expected, rel=1e-6)
    assert epsilon_released(sigma, 1.0, times, delta) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("once", [None, 6.0])
@pytest.mark.parametrize(("sigma", "rate", "delta"), [(2.52, 0.1, 1e-4), (1.7, 0.5, 0.0063), (1.7, 1.0, 1e-3)])
def test_one_release_more_at_a_time_is_what_all_at_once_cost(sigma, rate, delta, once):
    counts = range(1, 8)
    expected = [epsilon_released(sigma, rate, count, delta, once=once) for count in counts]
    found = epsilons_released(sigma, rate, delta, once=once)
    assert [next(found) for _ in counts] == pytest.approx(expected, rel=1e-9)
    later = epsilons_released(sigma, rate, delta, once=once, released=4)
    assert [next(later) for _ in counts[4:]] == pytest.approx(expected[4:], rel=1e-9)


def test_a_user_in_five_cohorts_of_a_server_that_sees_them():
    assert epsilon_server(1.21, 5, 1e-4) == pytest.approx(8.0, rel=0.01)


@pytest.mark.parametrize(
    ("clients", "cohort", "sigma", "digits"),
    [
        (100, 10, 2.0, "0.75"),
        (100, 50, 8.0, "0.88"),
        (1000, 100, 2.0, "1.1"),
        (1000, 100, 8.0, "0.2"),
        (10_000, 100, 2.0, "0.12"),
    ],
)
def test_planning_values_of_fifty_rounds(clients, cohort, sigma, digits):
    found = epsilon_released(sigma, cohort / clients, 50, default_delta(clients))
    assert f"{found:.2g}" == digits


def test_below_the_published_bound_of_the_moments_accountant():
    """Abadi et al. 2016, section 3.2: q = 0.01, σ = 4, 10,000 steps, δ = 1e-5: 1.26, an upper bound."""
    assert 0.7 * 1.26 < epsilon_released(4.0, 0.01, 10_000, 1e-5) < 1.26


@pytest.mark.parametrize(
    ("epsilon", "sigma", "rate", "rounds", "delta"),
    [
        (1.0, 2.0, 0.01, 10_000, 0.010224911),
        (1.0, 2.0, 0.02, 10_000, 0.149917330),
        (1.283637380 - 0.01, 2.0, 0.05, 100, 1e-6),
        (3.381220510 - 0.01, 3.0, 0.2, 100, 1e-6),
    ],
)
def test_published_values_of_other_accountants(epsilon, sigma, rate, rounds, delta):
    """Two of the Fourier accountant, two of the PRV accountant: see benchmarks/privacy_accountant.py."""
    assert epsilon_released(sigma, rate, rounds, delta) == pytest.approx(epsilon, rel=0.01)


def losses(rng, sigma, rate, rounds, count, removed):
    """Privacy losses of ``count`` simulated trainings: log P/Q of what is seen, drawn from P. Shape (count,)."""
    seen = sigma * rng.standard_normal((count, rounds))
    if removed:  # P is the federation with the user
        seen += rng.random((count, rounds)) < rate
    ratio = np.log1p(rate * np.expm1((seen - 0.5) / sigma**2)).sum(axis=1)
    return ratio if removed else -ratio


def test_simulated_privacy_losses_give_delta_at_epsilon():
    """δ is the mean of (1 − exp(ε − loss))₊, the larger of the two directions; interval of 4 standard errors."""
    sigma, rate, rounds, delta, count = 1.3, 0.3, 7, 0.03, 40_000
    epsilon = epsilon_released(sigma, rate, rounds, delta)
    rng = np.random.default_rng(5)
    means, errors = [], []
    for removed in (True, False):
        excess = -np.expm1(np.minimum(epsilon - losses(rng, sigma, rate, rounds, count, removed), 0))
        means.append(excess.mean())
        errors.append(excess.std() / math.sqrt(count))
    assert max(means) == pytest.approx(delta, abs=4 * errors[int(np.argmax(means))])
    assert min(means) < delta


def test_a_further_release_of_everybody_is_paid_for():
    plain, paid = epsilon_released(1.5, 0.2, 10, 1e-3), epsilon_released(1.5, 0.2, 10, 1e-3, once=2.0)
    alone = epsilon_server(2.0, 1, 1e-3)
    assert max(plain, alone) < paid < plain + alone
    assert epsilon_released(1.5, 1.0, 9, 1e-3, once=0.5) == pytest.approx(epsilon_server(1.5, 18, 1e-3))
    assert epsilon_released(1.5, 0.2, 0, 1e-3) == 0
    assert epsilon_released(1.5, 0.2, 0, 1e-3, once=2.0) == pytest.approx(alone)


def test_calibrated_noise_for_one_in_ten_thousand():
    assert calibrate(3, 1e-4, 0.1, 50) == pytest.approx(1.21, rel=0.01)
    assert calibrate(3, 1e-4, 0.1, 200) == pytest.approx(1.94, rel=0.01)


@pytest.mark.parametrize(
    ("epsilon", "rate", "rounds", "once"), [(2.0, 0.2, 20, None), (0.5, 0.05, 30, 30.0), (9.0, 1.0, 3, 4.0)]
)
def test_calibration_inverts_epsilon_released_from_below(epsilon, rate, rounds, once):
    sigma = calibrate(epsilon, 1e-3, rate, rounds, once=once)
    assert epsilon * 0.999 < epsilon_released(sigma, rate, rounds, 1e-3, once=once) <= epsilon


def test_calibration_for_a_server_that_sees_the_cohorts():
    sigma = calibrate(3.0, 1e-4, 0.1, 50, participations=5)
    assert 2.99 < epsilon_server(sigma, 5, 1e-4) <= 3


def test_hardly_any_user_needs_hardly_any_noise():
    """δ alone may cover all that is released: then ε is 0, and calibration still ends."""
    assert epsilon_released(5.0, 0.01, 3, 0.02) == 0
    assert 0.09 < epsilon_released(calibrate(0.1, 0.02, 0.01, 3), 0.01, 3, 0.02) <= 0.1


def test_delta_by_default_is_below_one_in_n():
    assert default_delta(1000) == pytest.approx(5.01e-4, rel=1e-3)
    check_delta(default_delta(2), 2)


def test_a_delta_of_one_in_n_is_refused_with_the_value_to_use():
    check_delta(0.00099, 1000)
    with pytest.raises(ConfigError, match=r"privacy.delta: delta = 0.001 with 1,000 users.*0.000501 \(N\^-1.1\)"):
        check_delta(0.001, 1000)
    with pytest.raises(ConfigError, match="at least 2"):
        check_delta(0.1, 1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: epsilon_released(0, 0.1, 5, 1e-3), "noise multiplier is 0"),
        (lambda: epsilon_released(1, 0, 5, 1e-3), "probability to take part is 0"),
        (lambda: epsilon_released(1, 1.1, 5, 1e-3), "at most 1"),
        (lambda: epsilon_server(1, -1, 1e-3), "rounds is -1"),
        (lambda: epsilon_server(1, 1, 1e-30), "delta is 1e-30"),
        (lambda: calibrate(0, 1e-3, 0.1, 5), "ε must be above 0"),
        (lambda: calibrate(1, 1e-3, 0.1, 5, once=0.5), "alone costs ε = 7"),
    ],
)
def test_what_cannot_be_is_one_message(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


def test_the_missing_extra_is_one_line_that_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError) as caught:
        require()
    assert str(caught.value).endswith("pip install 'fedvpa[privacy]'.")
    assert "\n" not in str(caught.value)


SELECTOR, POLICY = Releases(1.21, 0.1, 50), Releases(0.9, 0.25, 10)


@pytest.mark.parametrize("trainings", [(SELECTOR, POLICY), (POLICY, SELECTOR, Releases(2.0, 1.0, 3))])
def test_trainings_together_cost_what_the_library_composes(trainings):
    """dp-accounting's own accountant, with events in place of our distributions."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=5e-4)
    for one in trainings:
        event = PoissonSampledDpEvent(one.rate, GaussianDpEvent(one.noise_multiplier))
        accountant.compose(SelfComposedDpEvent(event, one.rounds))
    found = epsilon_composed(trainings, 1e-4)
    assert found == pytest.approx(accountant.get_epsilon(1e-4), rel=5e-3)
    assert found == pytest.approx(epsilon_composed(trainings[::-1], 1e-4), rel=1e-9)


@pytest.mark.parametrize(("one", "other"), [(SELECTOR, POLICY), (SELECTOR, Releases(40.0, 0.01, 2))])
def test_together_is_at_least_each_part_and_at_most_their_sum(one, other):
    parts = [epsilon_composed([part], 1e-4) for part in (one, other)]
    assert parts[0] == epsilon_released(one.noise_multiplier, one.rate, one.rounds, 1e-4)
    together = epsilon_composed([one, other], 1e-4)
    halves = sum(epsilon_composed([part], 5e-5) for part in (one, other))
    assert max(parts) * (1 - 1e-3) <= together <= halves, "basic composition, δ shared out"


def test_unsampled_trainings_together_are_one_gaussian():
    found = epsilon_composed([Releases(2.0, 1.0, 4), Releases(3.0, 1.0, 9)], 1e-3)
    assert found == pytest.approx(epsilon_server(2.0, 8, 1e-3)), "4/4 + 9/9 = 8/4"
    assert epsilon_composed([Releases(2.0, 0.3, 0)], 1e-3) == epsilon_composed([], 1e-3) == 0
    tiny = epsilon_composed([Releases(1e-3, 0.1, 2), Releases(2.0, 0.1, 4)], 1e-3)
    assert tiny == pytest.approx(epsilon_composed([Releases(1e-3, 1.0, 2), Releases(2.0, 1.0, 4)], 1e-3))
