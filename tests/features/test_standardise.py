"""Standardisation from additive statistics: the law, scikit-learn, and dimensions that do not vary."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from fedvpa.core.errors import DataError
from fedvpa.features.standardise import Moments, Standardiser

N, D = 53, 7


@pytest.fixture
def features() -> np.ndarray:
    rng = np.random.default_rng(3)
    return (rng.normal(size=(N, D)) * rng.uniform(0.1, 9, D) + rng.normal(size=D) * 5).astype(np.float16)


@pytest.mark.unit
def test_moments_by_hand():
    moments = Moments.of(np.array([[1.0, -2.0], [3.0, 4.0], [5.0, 0.0]], dtype=np.float16))
    assert moments.count == 3
    assert moments.sum.tolist() == [9.0, 2.0]
    assert moments.sum_of_squares.tolist() == [35.0, 20.0]
    standardiser = Standardiser.from_moments(moments)
    np.testing.assert_allclose(standardiser.mean, [3, 2 / 3])
    np.testing.assert_allclose(standardiser.scale**2, [35 / 3 - 9, 20 / 3 - 4 / 9])


@pytest.mark.unit
def test_adding_clients_is_pooling_their_data(features):
    clients = [features[:11], features[11:13], features[13:13], features[13:]]
    total = sum((Moments.of(client) for client in clients), start=Moments.zero(D))
    pooled = Moments.of(features)
    assert total.count == pooled.count == N
    np.testing.assert_allclose(total.sum, pooled.sum, rtol=1e-12)
    np.testing.assert_allclose(total.sum_of_squares, pooled.sum_of_squares, rtol=1e-12)


@pytest.mark.reference
def test_equals_scikit_learn(features):
    ours = Standardiser.from_moments(Moments.of(features)).apply(features)
    np.testing.assert_allclose(ours, StandardScaler().fit_transform(features.astype(np.float64)), atol=1e-6)
    assert ours.dtype == np.float32


@pytest.mark.unit
@pytest.mark.parametrize("value", [0.0, 0.1, 1000.0])
def test_a_constant_dimension_becomes_zero(features, value):
    features = features.astype(np.float32)
    features[:, 2] = value
    standardiser = Standardiser.from_moments(Moments.of(features))
    assert standardiser.scale[2] == 1
    assert np.abs(standardiser.apply(features)[:, 2]).max() < 1e-9 * max(1, value)
    assert (standardiser.scale[[0, 1, 3]] != 1).all()


@pytest.mark.unit
def test_rounding_does_not_make_a_constant_dimension_vary():
    """E[h²] − E[h]² of a constant is often a tiny positive number; dividing by its root would blow up rounding."""
    values = np.random.default_rng(2).uniform(0.1, 60, 211)
    moments = Moments.of(np.repeat(values[None], N, axis=0))
    variance = moments.sum_of_squares / N - (moments.sum / N) ** 2
    assert (variance > 0).any()
    assert (Standardiser.from_moments(moments).scale == 1).all()


@pytest.mark.unit
def test_a_large_mean_does_not_swallow_a_small_deviation():
    """float32 sums would lose the deviation altogether: 1e4² needs 27 bits before the variance begins."""
    column = np.where(np.arange(101) % 2, 1e4 + 0.5, 1e4 - 0.5).astype(np.float32)[:, None]
    assert Standardiser.from_moments(Moments.of(column)).scale[0] == pytest.approx(
        column.astype(np.float64).std(), rel=1e-6
    )


@pytest.mark.unit
def test_unusable_features_are_refused(features):
    with pytest.raises(DataError, match="matrix"):
        Moments.of(features[0])
    broken = features.copy()
    broken[17, 3] = np.nan
    with pytest.raises(DataError, match="row 17"):
        Moments.of(broken)
    with pytest.raises(DataError, match="dimensions"):
        Moments.of(features) + Moments.zero(D + 1)
    with pytest.raises(DataError, match="No client"):
        Standardiser.from_moments(Moments.zero(D))
