"""The statistics of an audit against closed forms and counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from fedvpa.privacy.audit import (
    MOST,
    Guesses,
    auc_interval,
    auc_of,
    best_bound,
    epsilon_lower,
    guess,
    largest_bound,
    p_value,
    separation,
    tpr_at,
)


@pytest.mark.reference
@pytest.mark.parametrize("m", [50, 200, 1000])
def test_all_guesses_right_shows_what_m_canaries_can_show(m: int):
    found = epsilon_lower(Guesses(m, m, m), 0.0)
    assert found == pytest.approx(largest_bound(m), abs=1e-4)
    assert found == pytest.approx(math.log(m / 3), abs=0.003 + 1.5 / m)
    assert epsilon_lower(Guesses(m, m, m), 0.0, 0.99) == pytest.approx(math.log(m / math.log(100)), abs=0.05)


@pytest.mark.reference
def test_without_delta_the_p_value_is_a_binomial_tail():
    share = math.e / (1 + math.e)
    assert p_value(Guesses(90, 40, 33), 1.0, 0.0) == pytest.approx(binom.sf(32, 40, share))
    assert p_value(Guesses(90, 40, 0), 1.0, 0.0) == 1


@pytest.mark.reference
def test_delta_adds_the_worst_shift_of_the_tail():
    """Written out: one guess, right. β(1) = p, β(0) − β(1) = 1 − p, so p + 2 m δ (1 − p)."""
    share = math.exp(0.5) / (1 + math.exp(0.5))
    assert p_value(Guesses(7, 1, 1), 0.5, 0.01) == pytest.approx(share + 2 * 7 * 0.01 * (1 - share))
    three = Guesses(5, 3, 3)
    tail = [binom.sf(v - 1, 3, share) for v in range(4)]
    worst = max((tail[3 - i] - tail[3]) / i for i in (1, 2, 3))
    assert p_value(three, 0.5, 0.01) == pytest.approx(tail[3] + 2 * 5 * 0.01 * worst)


@pytest.mark.unit
def test_more_delta_more_errors_and_fewer_guesses_prove_less():
    whole = epsilon_lower(Guesses(200, 200, 190), 1e-3)
    assert 0 < whole < epsilon_lower(Guesses(200, 200, 190), 0.0) < epsilon_lower(Guesses(200, 200, 195), 0.0)
    assert epsilon_lower(Guesses(200, 50, 50), 0.0) < epsilon_lower(Guesses(200, 200, 200), 0.0)
    assert epsilon_lower(Guesses(200, 200, 110), 0.0) == 0, "a coin does as well"
    assert epsilon_lower(Guesses(200, 0, 0), 0.0) == 0
    assert MOST > 40


@pytest.mark.unit
def test_the_surest_are_guessed():
    log_odds, planted = np.array([5.0, 1.0, 0.1, -0.2, -1.0, -5.0]), np.array([True, True, False, True, False, False])
    assert guess(log_odds, planted, 1.0) == Guesses(6, 6, 4)
    assert guess(log_odds, planted, 2 / 3) == Guesses(6, 4, 4)
    many = np.concatenate([np.linspace(1, 2, 50), -np.linspace(1, 2, 50)])
    bound, best = best_bound(many, many > 0, 0.0)
    assert best == Guesses(100, 90, 90)
    assert bound == pytest.approx(math.log(90 / math.log(40)), abs=0.03), "each of two has 2.5%"


@pytest.mark.reference
def test_randomised_response_is_refuted_no_higher_than_its_epsilon():
    """Coins told truly with probability e/(1 + e) have ε = 1: of 400 audits about 5% may say more."""
    generator, above = np.random.default_rng(0), 0
    for _ in range(400):
        planted = generator.random(300) < 0.5
        told = np.where(generator.random(300) < math.e / (1 + math.e), planted, ~planted)
        right = int((told == planted).sum())
        above += epsilon_lower(Guesses(300, 300, right), 0.0) > 1
    assert above <= binom.isf(1e-4, 400, 0.05)


@pytest.mark.reference
def test_auc_and_its_interval():
    generator = np.random.default_rng(1)
    members, others = generator.normal(0.5, 1, 40).round(1), generator.normal(0, 1, 60).round(1)
    found = separation(members, others)
    assert found is not None
    truth = np.r_[np.ones(40), np.zeros(60)]
    assert found.auc == auc_of(members, others) == pytest.approx(roc_auc_score(truth, np.r_[members, others]))
    assert found.ci95[0] < found.auc < found.ci95[1]
    assert auc_interval(1.0, 9, 9) == (1.0, 1.0)
    low, high = auc_interval(0.5, 50, 50)
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt((50 + 50 + 1) / (12 * 50 * 50)), rel=0.02), "Mann–Whitney"
    assert separation(members, others[:0]) is None


@pytest.mark.unit
def test_true_positives_at_one_percent_of_false_ones():
    others = np.arange(200.0)
    assert tpr_at(np.array([198.5, 199.5, 197.0, 150.0]), others, 0.01) == 0.5, "two of 200 may be above"
    assert tpr_at(np.array([198.5, 199.5]), others[:50], 0.01) == 1.0
    assert tpr_at(np.array([49.0, 48.0]), others[:50], 0.01) == 0.0, "of 50 none may be"
