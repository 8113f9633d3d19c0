"""Scores of features: ridge heads by hand, held-out pairs that do not decide their own heads, errors over users."""

from __future__ import annotations

import numpy as np
import pytest

from fedvpa.selector import layer_score
from fedvpa.selector.layer_score import PRIVATE, SHARED, FoldedPairs, LayerScore, score_features

N, D, USERS, FOLDS = 61, 5, 3, 4

pytestmark = pytest.mark.unit


@pytest.fixture
def pairs() -> FoldedPairs:
    rng = np.random.default_rng(0)
    return FoldedPairs(rng.integers(USERS, size=N), np.arange(N) % FOLDS, rng.uniform(0.5, 2.0, N))


@pytest.fixture
def delta() -> np.ndarray:
    return (np.random.default_rng(1).standard_normal((N, D)) * np.arange(1, D + 1)).astype(np.float32)


def test_heads_are_those_of_the_normal_equations(delta, pairs):
    fitted = pairs.fold != 2
    margins = layer_score._margins(delta, pairs, fitted, ~fitted)
    weight, exact = pairs.weight, delta.astype(np.float64)
    total = weight[fitted].sum()
    curvature = (exact[fitted] * weight[fitted, None]).T @ exact[fitted] / (4 * total)
    level, eye = np.trace(curvature) / D, np.eye(D)
    for row, shared in enumerate(SHARED):
        score = (exact[fitted] * weight[fitted, None]).sum(0) / 2
        head = np.linalg.solve(total * curvature + shared * level * eye, score)
        for column, private in enumerate(PRIVATE):
            for user in range(USERS):
                mine, held = fitted & (pairs.user == user), ~fitted & (pairs.user == user)
                count = weight[mine].sum()
                residual = (exact[mine] * weight[mine, None]).sum(0) / 2 - count * curvature @ head
                own = np.zeros(D)
                if np.isfinite(private):
                    own = np.linalg.solve(count * curvature + private * level * eye, residual)
                places = np.flatnonzero(held[~fitted])
                np.testing.assert_allclose(margins[row, column, places], exact[held] @ (head + own), atol=1e-9)


def test_a_pair_does_not_decide_the_head_that_scores_it(delta, pairs):
    held = pairs.fold == 1
    swapped = delta.copy()
    swapped[held] *= -1
    one, other = (layer_score._margins(each, pairs, ~held, held) for each in (delta, swapped))
    np.testing.assert_array_equal(one, -other)


def test_what_users_share_and_what_one_of_them_wants_is_found():
    rng = np.random.default_rng(2)
    user = np.repeat(np.arange(6), 60)
    taste = np.where(user[:, None] < 3, [[2.0, 0, 1]], [[2.0, 0, -1]])
    delta = rng.standard_normal((360, 3))
    delta *= np.where((delta * taste).sum(1, keepdims=True) + rng.logistic(size=(360, 1)) < 0, -1, 1)
    pairs = FoldedPairs(user, np.arange(360) % 5, np.ones(360))
    found = score_features(delta, pairs)
    alone = score_features(delta[:, :1], pairs)
    mean, error = found.gain(alone, user)
    assert mean == pytest.approx(found.mean - alone.mean)
    assert mean > 2 * error > 0
    assert 0.5 < alone.accuracy < found.accuracy < 0.95


def test_features_without_differences_say_nothing(pairs):
    score = score_features(np.zeros((N, D), np.float32), pairs)
    assert score.mean == pytest.approx(-np.log(2))
    assert score.accuracy == 0.5


def test_means_and_errors_by_hand():
    one = LayerScore(np.array([-0.1, -0.3, -0.8]), np.array([1.0, 0.5, 0.0]), np.array([1.0, 1.0, 2.0]))
    other = LayerScore(np.array([-0.2, -0.2, -1.0]), np.array([1.0, 1.0, 0.0]), np.array([1.0, 1.0, 2.0]))
    assert one.mean == pytest.approx(-2.0 / 4)
    assert one.accuracy == pytest.approx(1.5 / 4)
    mean, error = one.gain(other, np.array([0, 0, 1]))
    # Users gain 0.1 − 0.1 = 0 with weight 2 and 2 × 0.2 = 0.4 with weight 2; the mean is 0.1, deviations are ∓0.2.
    assert mean == pytest.approx(0.1)
    assert error == pytest.approx(np.sqrt(2 * (0.2**2 + 0.2**2)) / 4)


def test_noise_with_as_many_dimensions_as_pairs_tells_nothing():
    """Heads that had seen the pairs that they score would order nearly all of them right."""
    delta = np.random.default_rng(5).standard_normal((80, 70))
    score = score_features(delta, FoldedPairs(np.arange(80) % 4, np.arange(80) // 4 % 5, np.ones(80)))
    assert 0.3 < score.accuracy < 0.7
    assert score.mean < -0.66
