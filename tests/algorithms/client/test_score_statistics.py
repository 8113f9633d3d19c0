"""Closed forms of a client's score statistics, against dense algebra and numerical integration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from fedvpa.algorithms.client.score_statistics import Spectrum, contribution, log_evidence
from fedvpa.selector.heads import HEADS
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.prior import isotropic
from fedvpa.selector.refinement import laplace


def some_pairs(count: int, size: int, seed: int = 0) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    sides = torch.randn(2, count, size, generator=generator, dtype=torch.float64)
    weight = 0.5 + torch.rand(count, generator=generator, dtype=torch.float64)
    weight[-1] = 0  # padding
    return Pairs(sides[0], sides[1], weight, torch.ones(count, dtype=torch.float64))


def dense(pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """x and G."""
    rows = pairs.weight.unsqueeze(-1) * pairs.delta
    return rows.sum(0) / 2, rows.mT @ pairs.delta


@pytest.mark.unit
@pytest.mark.parametrize(("count", "size"), [(5, 7), (11, 7)])
def test_the_spectrum_is_that_of_the_second_moment(count: int, size: int):
    pairs = some_pairs(count, size)
    spectrum, (_, moment) = Spectrum.of(pairs), dense(pairs)
    torch.testing.assert_close(spectrum.factors @ spectrum.factors.mT, moment)
    torch.testing.assert_close(spectrum.factors.square().sum(0), spectrum.values)
    within = spectrum.along(pairs.delta[:-1])
    torch.testing.assert_close(within.square().sum(-1), pairs.delta[:-1].square().sum(-1))


@pytest.mark.unit
@pytest.mark.parametrize(("count", "size"), [(5, 7), (11, 7)])
def test_a_contribution_solves_what_it_says(count: int, size: int):
    pairs, variance = some_pairs(count, size), torch.tensor([0.0, 0.3, 20.0], dtype=torch.float64)
    score, moment = dense(pairs)
    scores, curvature = contribution(pairs, Spectrum.of(pairs), variance)
    for place, v in enumerate(variance):
        inner = torch.eye(size, dtype=torch.float64) + v * moment / 4
        torch.testing.assert_close(scores[place], torch.linalg.solve(inner, score))
        torch.testing.assert_close(curvature[place], torch.linalg.solve(inner, moment / 4).diagonal())


@pytest.mark.unit
def test_without_width_the_evidence_is_the_likelihood_at_the_mean():
    pairs, means = some_pairs(6, 4), torch.tensor([[0.4, -1.0, 0.2, 2.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    found = log_evidence(pairs, Spectrum.of(pairs), means, torch.zeros(1, dtype=torch.float64))[:, 0]
    likelihood = -(pairs.weight * torch.log1p(torch.exp(-(pairs.delta @ means.mT)).mT)).sum(-1)
    torch.testing.assert_close(found, likelihood)
    assert found[1].item() == pytest.approx(-np.log(2) * pairs.weight.sum().item())


@pytest.mark.reference
@pytest.mark.parametrize("variance", [0.01, 0.1, 1.0])
def test_the_evidence_is_the_integral(variance: float):
    pairs, mean = some_pairs(9, 1), 0.3
    deltas, weights = pairs.delta[:, 0].numpy(), pairs.weight.numpy()

    def joint(u: float) -> float:
        return float(np.exp(-(weights * np.log1p(np.exp(-u * deltas))).sum()) * norm.pdf(u, mean, variance**0.5))

    exact, _ = quad(joint, -12, 12, points=[mean], limit=400)
    variances = torch.tensor([variance], dtype=torch.float64)
    means = torch.tensor([[mean]], dtype=torch.float64)
    found = log_evidence(pairs, Spectrum.of(pairs), means, variances)[0, 0]
    assert found.item() == pytest.approx(np.log(exact), abs=0.1)


@pytest.mark.equivalence
@pytest.mark.parametrize(("count", "size"), [(12, 20), (40, 6)])
def test_the_evidence_is_near_that_of_newtons_method_with_a_curvature_for_each_pair(count: int, size: int):
    pairs, variances = some_pairs(count, size), (0.01, 0.05)
    means = 0.2 * torch.randn(3, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = log_evidence(pairs, Spectrum.of(pairs), means, torch.tensor(variances, dtype=torch.float64))
    ours = ours - ours[:1]
    for place, variance in enumerate(variances):
        even = torch.zeros(3, dtype=torch.float64)
        weights = {"base": torch.zeros(size, dtype=torch.float64)}
        prior = isotropic(even, means, float(np.log(variance)))
        newton = laplace(HEADS["linear"], weights, pairs, prior, torch.ones((), dtype=torch.float64))
        theirs = (newton.weights / newton.weights[0]).log()
        torch.testing.assert_close(ours[:, place], theirs, atol=0.1, rtol=0)


@pytest.mark.unit
def test_a_client_without_pairs_says_nothing():
    pairs = some_pairs(1, 3)
    scores, curvature = contribution(pairs, Spectrum.of(pairs), torch.ones(2, dtype=torch.float64))
    assert not scores.any()
    assert not curvature.any()
    evidence = log_evidence(pairs, Spectrum.of(pairs), scores, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert not evidence.any()
