"""Empirical Bayes on the server: closed forms and simulations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from fedvpa.algorithms.server.empirical_bayes import STRENGTHS, best_precision, effective_clients, fewest, segments


@pytest.mark.reference
def test_the_precision_maximises_the_evidence_of_noisy_scores():
    rng = np.random.default_rng(3)
    curvature, noise = rng.uniform(1, 30, (2, 40)), rng.uniform(1, 20, (2, 40))
    scores = curvature * rng.normal(0, 0.3, (2, 40)) + rng.normal(size=(2, 40)) * np.sqrt(noise)
    found = float(best_precision(*map(torch.from_numpy, (scores, curvature, noise))))
    tried = STRENGTHS.numpy() * curvature.max()
    evidence = [norm.logpdf(scores, scale=np.sqrt(curvature**2 / tau + noise)).sum() for tau in tried]
    assert found == pytest.approx(tried[int(np.argmax(evidence))])
    assert found == pytest.approx(1 / 0.3**2, rel=0.5)


@pytest.mark.unit
def test_nothing_known_shrinks_nothing():
    assert best_precision(torch.zeros(2, 3), torch.zeros(2, 3)) == 1


@pytest.mark.unit
def test_everybody_in_each_round_is_everybody():
    """c = N and any weights of rounds: each client has the same share."""
    weights = torch.tensor([0.5, 0.3, 0.2])
    found = effective_clients(8, (weights.square() / 8).sum(), weights.square().sum())
    torch.testing.assert_close(found, torch.tensor(8.0))


@pytest.mark.reference
def test_random_cohorts_are_worth_what_a_simulation_says():
    rng, clients, cohort, rounds = np.random.default_rng(0), 30, 4, 25
    weights = np.arange(1, rounds + 1) / (rounds * (rounds + 1) / 2)
    concentration = []
    for _ in range(2000):
        share = np.zeros(clients)
        for weight in weights:
            share[rng.choice(clients, cohort, replace=False)] += weight / cohort
        concentration.append((share**2).sum())
    squares = torch.tensor((weights**2).sum())
    found = effective_clients(clients, squares / cohort, squares)
    assert float(found) == pytest.approx(1 / np.mean(concentration), rel=0.01)


@pytest.mark.unit
def test_the_fewest_components_within_one_standard_error_are_kept():
    rng, sizes = np.random.default_rng(1), (1, 2, 3)
    each = rng.normal(0.2, 0.1, (400, 1)) + np.array([-0.05, 0.0, 0.0]) + 0.01 * rng.normal(size=(400, 3))
    means, products = torch.tensor(each.mean(0)), torch.tensor(each.T @ each / len(each))
    assert means[1] > means[0]
    assert fewest(means, products, 400.0, sizes) == 1
    assert fewest(means, products, 400.0, (4, 2, 3)) == 1
    close = torch.tensor([0.199, 0.2, 0.2]), torch.full((3, 3), 0.04) + 1e-2 * torch.eye(3)
    assert fewest(*close, 400.0, sizes) == 0, "a difference of 0.001 is within its standard error of 0.007"
    wide = means.clone()
    wide[2] += 0.05
    assert fewest(wide, products, 400.0, sizes) == 2


@pytest.mark.unit
@pytest.mark.parametrize(("errors", "one", "two"), [(1.4, 0, 0), (1.75, 1, 0), (2.25, 1, 1)])
def test_one_model_for_all_has_to_be_nearer_to_the_best_than_fewer_groups(errors: float, one: int, two: int):
    """The difference of two candidates has the standard deviation 1, over 100 clients: a standard error of 0.1."""
    means = torch.tensor([0.0, errors / 10], dtype=torch.float64)
    products = torch.outer(means, means) + torch.eye(2) / 2
    assert fewest(means, products, 100.0, (1, 2)) == one
    assert fewest(means, products, 100.0, (2, 3)) == two


@pytest.mark.unit
def test_segments_name_the_candidate_of_each_component():
    assert segments((1, 2, 3)).tolist() == [0, 1, 1, 2, 2, 2]
