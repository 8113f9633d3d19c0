"""Mean and scale of features from one noised sum: what one user can change, and what is left of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedvpa.features.standardise import Moments, Standardiser
from fedvpa.privacy.accounting import epsilon_released, epsilons_released
from fedvpa.privacy.moments import LEAST_VARIANCE, SENSITIVITY, released, standardiser, user_vector

USERS, DIMENSION = 7, 5


def users(rng: np.random.Generator, scale: float = 1.0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Features and weights of users with 2 to 8 responses."""
    sizes = [2 + number for number in range(USERS)]
    return [(scale * rng.standard_normal((size, DIMENSION)), rng.random(size) + 0.1) for size in sizes]


@pytest.mark.reference
@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_one_user_more_or_less_changes_the_sum_by_no_more_than_the_noise_is_made_for(scale: float):
    rng = np.random.default_rng(0)
    federation = users(rng, scale)
    hostile = [(np.full((3, DIMENSION), 1e9), np.ones(3)), (np.eye(DIMENSION)[[0]] * 1e12, np.array([1e3]))]
    for one in [*federation, *hostile]:
        everybody = [*federation, one]
        with_one = sum(user_vector(*other, clip=1.5) for other in everybody)
        without = sum(user_vector(*other, clip=1.5) for other in federation)
        assert np.linalg.norm(with_one - without) <= SENSITIVITY * (1 + 1e-12)
    assert max(np.linalg.norm(user_vector(*other, clip=1.5)) for other in hostile) == pytest.approx(math.sqrt(2))
    assert not user_vector(np.zeros((0, DIMENSION)), np.zeros(0), 1.5).any(), "a user without pairs"


@pytest.mark.reference
def test_without_noise_it_is_the_standardiser_of_users_that_count_alike():
    rng = np.random.default_rng(1)
    federation = [(0.3 * features + 0.2, weights) for features, weights in users(rng)]
    total = sum(user_vector(*one, clip=9.0) for one in federation)
    shares = np.concatenate([weights / weights.sum() for _, weights in federation])
    expected = Standardiser.from_moments(Moments.of(np.concatenate([features for features, _ in federation]), shares))
    found = standardiser(released(total, 1e-9, rng), USERS, 1e-9, 9.0)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5)
    np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-5)
    again = [(features, 3 * weights) for features, weights in federation]
    np.testing.assert_allclose(sum(user_vector(*one, clip=9.0) for one in again), total)


@pytest.mark.unit
def test_the_noise_is_that_of_a_gaussian_release_and_drawn_from_the_generator():
    total = np.zeros(20_000)
    one, two = (released(total, 3.0, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(one, two)
    assert one.std() == pytest.approx(3.0 * math.sqrt(2), rel=0.02)
    assert abs(one.mean()) < 4 * 3.0 * math.sqrt(2) / math.sqrt(len(total))


@pytest.mark.unit
def test_what_noise_drowns_is_drawn_to_the_mean_and_stays_usable():
    rng = np.random.default_rng(2)
    spread = np.exp(rng.standard_normal(200) / 2)
    federation = [(rng.standard_normal((20, 200)) * spread + 1.0, np.ones(20)) for _ in range(60)]
    total, clip = sum(user_vector(*one, clip=40.0) for one in federation), 40.0
    errors = []
    for noise in (0.01, 0.3, 1.0, 30.0):
        found = standardiser(released(total, noise, np.random.default_rng(3)), 60, noise, clip)
        assert np.isfinite(found.mean).all()
        assert (found.scale > 0).all()
        assert found.scale.min() >= math.sqrt(LEAST_VARIANCE * np.mean(found.scale**2)) * 0.9
        errors.append(np.log(found.scale / spread).std())
    flat = np.log(spread).std()
    assert errors[0] < 0.1 * flat
    assert errors[0] < errors[1] < 1.1 * flat
    assert errors[2] == pytest.approx(errors[3], abs=0.5 * flat)
    assert standardiser(-np.ones(400), 60, 1.0, clip).scale.tolist() == [1.0] * 200, "no variance is left: as they are"


@pytest.mark.reference
def test_rounds_and_the_release_of_everybody_are_composed_as_dp_accounting_composes_them():
    from dp_accounting import (
        ComposedDpEvent,
        GaussianDpEvent,
        NeighboringRelation,
        PoissonSampledDpEvent,
        SelfComposedDpEvent,
    )
    from dp_accounting.pld import PLDAccountant

    sigma, rate, rounds, once, delta = 1.6, 0.5, 20, 5.0, 0.0063
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3)
    sampled = SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)), rounds)
    accountant.compose(ComposedDpEvent([sampled, GaussianDpEvent(once)]))
    expected = accountant.get_epsilon(delta)
    assert epsilon_released(sigma, rate, rounds, delta, once=once) == pytest.approx(expected, rel=2e-3)
    lines = epsilons_released(sigma, rate, delta, once=once)
    assert [next(lines) for _ in range(rounds)][-1] == pytest.approx(expected, rel=2e-3)
