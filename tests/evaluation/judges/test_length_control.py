import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from fedvpa.core.errors import DataError
from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.evaluation.judges.length_control import PENALTY, fit, length_controlled


def drawn(count, theta, phi, seed=0, shift=0.0):
    """Verdicts of a judge whose log-odds are theta + phi tanh(standardised difference), some of them ties."""
    rng = np.random.default_rng(seed)
    differences = np.round(rng.normal(shift, 40, count))
    odds = theta + phi * np.tanh(differences / differences.std())
    scores = (rng.random(count) < expit(odds)).astype(float)
    scores[rng.random(count) < 0.1] = 0.5
    return scores, differences


@pytest.mark.reference
@pytest.mark.parametrize(("theta", "phi", "shift"), [(0.3, 0.0, 0.0), (-0.7, 1.9, 25.0), (1.1, -0.8, -60.0)])
def test_the_fit_is_scikit_learns_penalised_logistic_regression(theta, phi, shift):
    scores, differences = drawn(307, theta, phi, shift=shift)
    inputs = np.tanh(differences / differences.std())[:, None]
    model = LogisticRegression(C=1 / PENALTY, tol=1e-12, max_iter=1000)
    model.fit(np.vstack([inputs, inputs]), [1] * 307 + [0] * 307, sample_weight=np.concatenate([scores, 1 - scores]))
    controlled, slope = fit(scores, differences)
    assert controlled == pytest.approx(expit(model.intercept_[0]), abs=1e-6)
    assert slope == pytest.approx(model.coef_[0, 0], abs=1e-5)


@pytest.mark.reference
def test_the_true_rate_at_equal_length_is_recovered():
    scores, differences = drawn(40_009, 0.4, 2.0, shift=50.0)
    scores[scores == 0.5] = np.random.default_rng(1).random((scores == 0.5).sum()) < expit(
        0.4 + 2.0 * np.tanh(differences[scores == 0.5] / differences.std())
    )
    controlled, slope = fit(scores, differences)
    assert controlled == pytest.approx(expit(0.4), abs=0.01)
    assert slope == pytest.approx(2.0, abs=0.1)
    assert scores.mean() > expit(0.4) + 0.1  # the raw rate is far from it


@pytest.mark.unit
def test_without_an_effect_of_length_it_is_the_raw_rate():
    """Every difference occurs with the same share of wins: φ is exactly 0."""
    differences = np.repeat([-30.0, -7.0, 0.0, 11.0, 55.0], 4)
    scores = np.tile([1.0, 1.0, 1.0, 0.0], 5)
    controlled, slope = fit(scores, differences)
    assert controlled == pytest.approx(0.75, abs=1e-12)
    assert slope == pytest.approx(0.0, abs=1e-12)


@pytest.mark.unit
@pytest.mark.parametrize("shift", [0.0, 25.0, -40.0])
def test_where_the_longer_response_always_wins_it_is_about_one_half(shift):
    differences = np.random.default_rng(2).normal(shift, 40, 4001).round()
    scores = np.where(differences == 0, 0.5, differences > 0)
    controlled, slope = fit(scores, differences)
    assert abs(scores.mean() - 0.5) > 0.2 or shift == 0
    assert controlled == pytest.approx(0.5, abs=0.03)
    assert slope > 10


@pytest.mark.unit
def test_a_set_and_its_mirror_image_give_one_half():
    differences = np.array([3.0, 11.0, 90.0, -3.0, -11.0, -90.0])
    controlled, slope = fit((differences > 0).astype(float), differences)
    assert controlled == pytest.approx(0.5, abs=1e-9)
    inputs = np.tanh(differences[:3] / differences.std())
    pull = 2 * (inputs * expit(-slope * inputs)).sum()  # the slope of the log-likelihood, which the penalty holds
    assert pull == pytest.approx(0.01 * slope, abs=1e-7)


@pytest.mark.unit
def test_swapping_first_and_second_mirrors_the_rate():
    scores, differences = drawn(151, 0.5, 1.2, shift=33.0)
    controlled, slope = fit(scores, differences)
    mirrored, same = fit(1 - scores, -differences)
    assert mirrored == pytest.approx(1 - controlled, abs=1e-9)
    assert same == pytest.approx(slope, abs=1e-9)


@pytest.mark.unit
def test_where_it_cannot_be_told_it_says_so():
    scores = np.array([1.0, 0.0, 1.0])
    assert fit(scores, np.full(3, 17.0)) == (None, None)
    assert fit(scores, np.zeros(3)) == (pytest.approx(2 / 3), None)
    assert fit(np.ones(3), np.array([1.0, 5.0, -2.0])) == (1.0, None)
    assert fit(np.zeros(2), np.array([1.0, 5.0])) == (0.0, None)


@pytest.mark.unit
def test_characters_are_counted_and_missing_verdicts_left_out():
    sizes = [(9, 2), (4, 6), (5, 5), (3, 8), (7, 1)]
    duels = [Duel("why?", "x" * first, "y" * second, "helpful") for first, second in sizes]
    given = [Verdict(1.0), Verdict(0.0), Verdict(0.5), Verdict(None, "time-out"), Verdict(0.0)]
    result = length_controlled(duels, given)
    assert (result.raw, result.judged, result.mean_difference) == (1.5 / 4, 4, (7 - 2 + 0 + 6) / 4)
    assert (result.controlled, result.slope) == fit(np.array([1.0, 0.0, 0.5, 0.0]), np.array([7.0, -2.0, 0.0, 6.0]))


@pytest.mark.unit
def test_wrong_input_is_named():
    duel = Duel("why?", "x", "y", "helpful")
    with pytest.raises(DataError, match="no verdict to make a win rate of"):
        length_controlled([duel], [Verdict(None, "time-out")])
    with pytest.raises(DataError, match="2 duels and 1 verdicts"):
        length_controlled([duel, duel], [Verdict(1.0)])
