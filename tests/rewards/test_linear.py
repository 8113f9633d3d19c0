import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from fedvpa.rewards.linear import FOLDS, STRENGTHS, fit_linear, fit_weights, folds_of

pytestmark = pytest.mark.unit


def choices(rng, n, d, weights):
    """Δh of n pairs, oriented by draws of Bradley–Terry labels under ``weights``."""
    delta = rng.normal(size=(n, d)) * np.arange(1, d + 1)
    sign = np.where(rng.random(n) < expit(delta @ weights), 1.0, -1.0)
    return delta * sign[:, None]


def test_the_weights_are_the_maximum_of_the_penalised_likelihood():
    rng = np.random.default_rng(3)
    delta = choices(rng, 67, 3, np.array([0.7, -0.2, 0.0]))
    scale2 = (delta**2).mean(0)

    def loss(weights):
        return np.logaddexp(0, -(delta @ weights)).sum() + 7.0 / 2 * (weights**2 * scale2).sum()

    expected = minimize(loss, np.zeros(3), tol=1e-12).x
    np.testing.assert_allclose(fit_weights(delta, 7.0), expected, atol=1e-4)


def test_the_unit_of_a_feature_does_not_matter_and_one_that_never_differs_has_no_weight():
    rng = np.random.default_rng(4)
    delta = choices(rng, 61, 3, np.array([0.7, -0.2, 0.1]))
    units = np.array([10.0, 0.1, 1.0])
    np.testing.assert_allclose(fit_weights(delta * units, 3.0) * units, fit_weights(delta, 3.0), rtol=1e-3)
    delta[:, 1] = 0.0
    assert fit_weights(delta, 3.0)[1] == 0.0


def test_units_are_in_one_part_and_parts_are_even():
    units = [f"u{number % 43}" for number in range(131)]
    folds = folds_of(units, "estimate")
    assert len({(unit, fold) for unit, fold in zip(units, folds.tolist(), strict=True)}) == 43
    sizes = np.bincount([folds[units.index(unit)] for unit in dict.fromkeys(units)])
    assert len(sizes) == FOLDS
    assert np.ptp(sizes) <= 1
    assert (folds_of(units, "choice") != folds).any()


def test_a_pair_is_judged_by_weights_that_did_not_see_its_prompt():
    rng = np.random.default_rng(5)
    delta = choices(rng, 79, 2, np.array([1.5, 0.0]))
    units = [f"u{number}" for number in range(79)]
    fit = fit_linear(delta, units)
    assert fit.strength in STRENGTHS
    np.testing.assert_array_equal(fit.weights, fit_weights(delta, fit.strength))
    # Another label of a pair changes what others say, and nothing that is said of the pair but its sign.
    other = delta.copy()
    other[11] *= -1
    again = fit_linear(other, units)
    assert again.margins[11] == pytest.approx(-fit.margins[11])
    assert np.abs(np.delete(again.margins - fit.margins, 11)).max() > 1e-6


def test_labels_without_a_cause_are_ordered_at_chance():
    rng = np.random.default_rng(6)
    delta = rng.normal(size=(401, 7))
    fit = fit_linear(delta, [f"u{number}" for number in range(401)])
    assert (fit.margins > 0).mean() == pytest.approx(0.5, abs=0.1)
