from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from scipy.integrate import quad

from fedvpa.objectives.bradley_terry import choice_log_likelihood, weighted_mean
from fedvpa.objectives.gaussian import (
    gaussian_log_density,
    gumbel_softmax_log_weights,
    mixture_log_density,
    monte_carlo_kl,
    standard_normal_kl,
)
from fedvpa.objectives.orthogonality import prototype_gram_penalty, prototype_pull
from fedvpa.selector.prototypes import init_prototypes


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.reference
def test_gaussian_log_density_is_scipys():
    z, mean, log_var = random(5, 3), random(5, 3, seed=1), random(5, 3, seed=2)
    expected = scipy.stats.norm.logpdf(z.numpy(), mean.numpy(), (0.5 * log_var).exp().numpy()).sum(-1)
    torch.testing.assert_close(gaussian_log_density(z, mean, log_var), torch.from_numpy(expected))


@pytest.mark.reference
def test_normal_kl_is_the_integral():
    mean, log_var = 0.7, -0.9
    q = scipy.stats.norm(mean, math.exp(0.5 * log_var))
    integral, _ = quad(lambda z: q.pdf(z) * (q.logpdf(z) - scipy.stats.norm.logpdf(z)), -9, 9)
    found = standard_normal_kl(torch.tensor([mean]), torch.tensor([log_var]))
    assert found.item() == pytest.approx(integral, abs=1e-6)


@pytest.mark.reference
def test_mixture_density_is_the_log_of_the_weighted_sum():
    z, means, log_vars = random(4, 2), random(3, 2, seed=1), random(3, 2, seed=2)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    parts = [
        w.item() * scipy.stats.norm.pdf(z.numpy(), m.numpy(), (0.5 * v).exp().numpy()).prod(-1)
        for w, m, v in zip(weights, means, log_vars, strict=True)
    ]
    expected = torch.stack([torch.as_tensor(part) for part in parts]).sum(0).log()
    torch.testing.assert_close(mixture_log_density(z, means, log_vars, weights.log()), expected)


@pytest.mark.unit
def test_one_component_is_the_gaussian_kl_on_average():
    mean, log_var = random(2), random(2, seed=3)
    z = mean + (0.5 * log_var).exp() * random(40_009, 2, seed=4)
    zero = torch.zeros(1, 2, dtype=torch.float64)
    prior = mixture_log_density(z, zero, zero, torch.zeros(1, dtype=torch.float64))
    samples = monte_carlo_kl(z, mean.expand_as(z), log_var.expand_as(z), prior)
    error = 4 * samples.std() / math.sqrt(len(samples))
    assert samples.mean().item() == pytest.approx(standard_normal_kl(mean, log_var).item(), abs=error.item())


@pytest.mark.unit
def test_gumbel_softmax_by_hand_at_the_limits_and_with_a_component_left_out():
    logits, gumbel = torch.tensor([0.0, 1.0, -math.inf]), torch.tensor([0.5, -0.2, 9.0])
    weights = gumbel_softmax_log_weights(logits, gumbel, 2.0).exp()
    expected = torch.tensor([math.exp(0.25), math.exp(0.4), 0.0])
    torch.testing.assert_close(weights, expected / expected.sum())
    torch.testing.assert_close(gumbel_softmax_log_weights(logits, gumbel, 1e-3).exp(), torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.unit
def test_choice_likelihood_and_weighted_mean_by_hand():
    assert choice_log_likelihood(torch.tensor(0.3)).item() == pytest.approx(-math.log(1 + math.exp(-0.3)))
    values = torch.tensor([[1.0, 5.0], [2.0, 3.0]])
    weight = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(weighted_mean(values, weight), torch.tensor([2.0, 0.0]))


@pytest.mark.unit
@pytest.mark.parametrize("scale", [0.5, 5.0])
def test_orthogonal_prototypes_cost_nothing_at_any_scale(scale: float):
    prototypes = init_prototypes(3, 7, scale, torch.Generator().manual_seed(0))
    assert prototype_gram_penalty(prototypes, scale).item() == pytest.approx(0.0, abs=1e-9)
    torch.testing.assert_close(prototypes.norm(dim=-1), torch.full((3,), scale))
    # P Pᵀ/s² of two equal prototypes is all ones: two off-diagonal ones are left.
    assert prototype_gram_penalty(prototypes[:1].expand(2, -1), scale).item() == pytest.approx(2.0, abs=1e-5)
    assert prototype_pull(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])).item() == 5.0
