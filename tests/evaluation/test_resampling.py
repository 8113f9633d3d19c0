import numpy as np
import pytest

from evaluation.made_samples import random_sample
from fedvpa.evaluation.intervals import Bootstrap, estimate
from fedvpa.evaluation.resampling import resampled, worst_decile

BOOTSTRAP = Bootstrap(resamples=4000)

MANY = Bootstrap(resamples=100_000)


@pytest.mark.reference
def test_the_resampled_variance_is_the_unbiased_closed_form():
    sample = random_sample(3, 7, 13)
    draws = resampled(sample.strata, MANY)
    expected = sum(sample.values(seed).var(ddof=1) / len(sample.values(seed)) for seed in sample.seeds) / 9
    assert draws.var() == pytest.approx(expected, rel=0.02)
    assert draws.mean() == pytest.approx(estimate(sample).value, abs=3e-4)


@pytest.mark.unit
def test_pieces_of_a_large_stratum_make_the_same_draws(monkeypatch):
    sample = random_sample(31)
    whole = resampled(sample.strata, BOOTSTRAP)
    monkeypatch.setattr("fedvpa.evaluation.resampling.DRAWS_AT_ONCE", 30 * 97)
    assert np.array_equal(resampled(sample.strata, BOOTSTRAP), whole)


@pytest.mark.reference
def test_the_worst_decile_by_hand():
    values = np.array([0.9, 0.1, 0.2, 0.3] + [0.8] * 21)
    assert worst_decile(values) == pytest.approx((0.1 + 0.2 + 0.5 * 0.3) / 2.5)
    assert worst_decile(values[:7]) == 0.1
    assert worst_decile(np.linspace(0, 1, 30)) == pytest.approx(1 / 29)
    assert worst_decile(np.stack([values, 1 - values])) == pytest.approx([0.18, 0.1 * 1 / 2.5 + 0.2 * 1.5 / 2.5])
