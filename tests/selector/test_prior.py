"""Inference under the hierarchical prior z | m ~ N(μ_m, Σ_m): its limits, and closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.distributions import Normal
from torch.nn.functional import logsigmoid

from fedvpa.selector.config import EncoderConfig, InferenceConfig, SelectorConfig
from fedvpa.selector.encoder import encode, init_encoder
from fedvpa.selector.heads import HEADS
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.prior import Prior, isotropic
from fedvpa.selector.refinement import at_prototypes, evidence, laplace
from fedvpa.selector.selector import Selector

D, K, N = 7, 3, 11
ONE = torch.ones(()).double()


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(*shape: int, seed: int = 0, width: int = D) -> Pairs:
    return Pairs(*normal(2, *shape, width, seed=seed), *torch.ones(2, *shape, dtype=torch.float64))


TREE = {"base": normal(D, seed=2), "personal": normal(K, D, seed=3)}
PRIOR = Prior(torch.tensor([0.3, 0.7]).double().log(), normal(2, K, seed=4), normal(2, K, seed=5))


def selector(prior: Prior, method: str = "laplace", **inference: float) -> Selector:
    params = {"head.base": TREE["base"], "head.personal": TREE["personal"], "prototypes": prior.means}
    shape = SelectorConfig(latent=K, prototypes=len(prior.means))
    config = InferenceConfig(method=method, **inference)
    return Selector(shape, config, params | {"log_vars": prior.log_vars}, prior.log_weights, ONE)


@pytest.mark.unit
@pytest.mark.parametrize("log_var", [-20.0, -math.inf])
def test_without_variance_only_the_responsibilities_at_the_means_are_left(log_var: float):
    prior, head, data = isotropic(PRIOR.log_weights, PRIOR.means, log_var), HEADS["bilinear"], pairs(5, N)
    by_hand = torch.softmax(prior.log_weights + 1.7 * evidence(head, TREE, data, prior.means), -1)
    found = laplace(head, TREE, data, prior, 1.7 * ONE)
    assert by_hand.min() < 0.1
    torch.testing.assert_close(found.weights, by_hand, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.means, prior.means.expand(5, 2, K), atol=1e-6, rtol=0)
    at = at_prototypes(evidence(head, TREE, data, prior.means), prior, 1.7 * ONE)
    torch.testing.assert_close(at.weights, by_hand)
    torch.testing.assert_close(at.log_vars, prior.log_vars.expand(5, 2, K))


@pytest.mark.equivalence
@pytest.mark.parametrize("count", [K - 1, N])
def test_one_component_as_wide_as_the_penalty_allows_is_ridge_regression(count: int):
    one, decay = Prior(torch.zeros(1).double(), PRIOR.means[:1], PRIOR.log_vars[:1]), 0.4
    data = pairs(3, count)
    ridge = selector(one, "ridge", decay=decay).infer(data)
    wide = selector(isotropic(one.log_weights, one.means, -math.log(decay * count))).infer(data)
    torch.testing.assert_close(wide.mean, ridge.mean)
    torch.testing.assert_close(wide.log_vars, ridge.log_vars)
    # Ridge's own condition: the gradient of the penalised loss is 0.
    offset, slope = HEADS["bilinear"].linear(TREE, data)
    z = ridge.mean
    wrong = torch.sigmoid(-offset - (slope @ z.unsqueeze(-1)).squeeze(-1))
    gradient = (wrong.unsqueeze(-1) * slope).sum(-2) / count - decay * (z - one.means[0])
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-7, rtol=0)


@pytest.mark.reference
def test_in_one_dimension_it_is_what_numerical_integration_gives():
    tree = {"base": torch.zeros(1).double(), "personal": torch.ones(1, 1).double()}
    delta = torch.tensor([[0.9], [-0.2], [0.6]]).double()
    data = Pairs(delta, torch.zeros_like(delta), torch.ones(3).double(), torch.ones(3).double())
    widths = torch.tensor([[-2.0], [0.3]]).double()
    prior = Prior(torch.tensor([0.4, 0.6]).double().log(), torch.tensor([[1.0], [-1.0]]).double(), widths)
    found = laplace(HEADS["bilinear"], tree, data, prior, ONE)

    def moment(m: int, power: int) -> float:
        mean, variance = prior.means[m].item(), prior.log_vars[m].exp().item()

        def integrand(z: float) -> float:
            fit = -np.logaddexp(0, -(delta.numpy() @ [z])).sum()
            return z**power * np.exp(fit - 0.5 * (z - mean) ** 2 / variance) / math.sqrt(2 * math.pi * variance)

        return prior.log_weights[m].exp().item() * quad(integrand, -15, 15)[0]

    mass, first, second = (np.array([moment(m, power) for m in (0, 1)]) for power in (0, 1, 2))
    np.testing.assert_allclose(found.weights.numpy(), mass / mass.sum(), atol=4e-3)
    np.testing.assert_allclose(found.means[:, 0].numpy(), first / mass, atol=0.03)
    variance = second / mass - (first / mass) ** 2
    np.testing.assert_allclose(found.log_vars[:, 0].exp().numpy(), variance, rtol=0.04)


@pytest.mark.reference
@pytest.mark.parametrize("count", [K - 1, N])
def test_a_variance_for_each_dimension_is_what_a_dense_solve_gives(count: int):
    data, gain = pairs(count), 1.3
    found = laplace(HEADS["bilinear"], TREE, data, PRIOR, gain * ONE)
    offset, slope = HEADS["bilinear"].linear(TREE, data)
    log_evidence = []
    for m in range(2):
        z, precision = found.means[m], torch.diag((-PRIOR.log_vars[m]).exp())
        margin = offset + slope @ z
        gradient = gain * slope.T @ torch.sigmoid(-margin) - precision @ (z - PRIOR.means[m])
        torch.testing.assert_close(gradient, torch.zeros(K).double(), atol=1e-7, rtol=0)
        spread = torch.diag(gain * torch.sigmoid(margin) * torch.sigmoid(-margin))
        hessian = precision + slope.T @ spread @ slope
        torch.testing.assert_close(found.log_vars[m].exp(), torch.linalg.inv(hessian).diagonal())
        off = z - PRIOR.means[m]
        fit = gain * logsigmoid(margin).sum() - 0.5 * off @ precision @ off
        log_evidence.append(fit + 0.5 * (torch.logdet(precision) - torch.logdet(hessian)))
    expected = torch.softmax(PRIOR.log_weights + torch.stack(log_evidence), -1)
    torch.testing.assert_close(found.weights, expected)


@pytest.mark.unit
def test_without_pairs_the_posterior_is_the_prior_for_each_client_its_own():
    own = Prior(PRIOR.log_weights, PRIOR.means, normal(5, 2, K, seed=9))
    found = laplace(HEADS["bilinear"], TREE, pairs(5, 0), own, ONE)
    torch.testing.assert_close(found.log_vars, own.log_vars)
    torch.testing.assert_close(found.means, own.means.expand(5, 2, K))
    torch.testing.assert_close(found.weights, own.log_weights.exp().expand(5, 2))


@pytest.mark.unit
def test_learned_variances_enter_and_a_selector_without_them_has_the_same_everywhere(tmp_path):
    learned = selector(PRIOR)
    params = {name: leaf for name, leaf in learned.params.items() if name != "log_vars"}
    plain = replace(learned, params=params, inference=InferenceConfig(method="laplace", component_log_var=-0.3))
    assert torch.equal(plain.prior.log_vars, torch.full((2, K), -0.3, dtype=torch.float64))
    assert torch.equal(learned.prior.log_vars, PRIOR.log_vars)
    learned.save_pretrained(tmp_path)
    assert torch.equal(Selector.from_pretrained(tmp_path).prior.log_vars, PRIOR.log_vars)
    data = pairs(4, N)
    assert (learned.infer(data).mean - plain.infer(data).mean).abs().max() > 1e-2


@pytest.mark.unit
def test_the_priors_own_moments():
    at = PRIOR.at_mean((5,))
    torch.testing.assert_close(at.mean, (0.3 * PRIOR.means[0] + 0.7 * PRIOR.means[1]).expand(5, K))
    variance = 0.3 * PRIOR.log_vars[0].exp() + 0.7 * PRIOR.log_vars[1].exp()
    torch.testing.assert_close(at.log_vars.exp(), variance.expand(5, 1, K))
    assert torch.equal(selector(PRIOR).each_prototype((5,)).weights, torch.full((5, 2), 0.5).double())
    assert torch.equal(selector(PRIOR).at_prototype(torch.tensor([1, 0])).log_vars, PRIOR.log_vars[[1, 0]].unsqueeze(1))


@pytest.mark.reference
def test_times_a_gaussian_is_the_product_of_densities_up_to_a_constant():
    mean, log_var = normal(5, K, seed=11), normal(5, K, seed=12)
    found, z = PRIOR.times(mean, log_var), normal(5, 9, K, seed=13)
    torch.testing.assert_close(found.log_weights.exp().sum(-1), torch.ones(5).double())

    def density(prior: Prior) -> torch.Tensor:
        parts = Normal(prior.means.unsqueeze(-3), (0.5 * prior.log_vars).exp().unsqueeze(-3))
        return torch.logsumexp(prior.log_weights.unsqueeze(-2) + parts.log_prob(z.unsqueeze(-2)).sum(-1), -1)

    gaussian = Normal(mean.unsqueeze(-2), (0.5 * log_var).exp().unsqueeze(-2)).log_prob(z).sum(-1)
    apart = density(found) - density(PRIOR) - gaussian
    torch.testing.assert_close(apart, apart[:, :1].expand(5, 9))


@pytest.mark.unit
@pytest.mark.parametrize("way", ["laplace", "responsibilities"])
def test_the_amortised_posterior_is_one_factor_beside_prior_and_likelihood(way: str):
    shape = EncoderConfig(pair_widths=(5,))
    encoder = {
        name: leaf.double() for name, leaf in init_encoder(D, K, shape, torch.Generator().manual_seed(0)).items()
    }
    plain = replace(selector(PRIOR, way), gain=0.1 * ONE)
    params = plain.params | {f"encoder.{name}": leaf for name, leaf in encoder.items()}
    both = replace(plain, params=params, config=plain.config.model_copy(update={"encoder": shape}))
    data = pairs(4, N)
    product = PRIOR.times(*encode(encoder, data.delta, data.weight, shape))
    found = both.with_inference(f"amortised_{way}").infer(data)
    if way == "laplace":
        expected = laplace(HEADS["bilinear"], TREE, data, product, 0.1 * ONE)
        torch.testing.assert_close(found.means, expected.means)
    else:
        likelihood = evidence(HEADS["bilinear"], TREE, data, PRIOR.means)
        expected = at_prototypes(likelihood, replace(PRIOR, log_weights=product.log_weights), 0.1 * ONE)
        torch.testing.assert_close(found.means, PRIOR.means.expand(4, 2, K))
    torch.testing.assert_close(found.weights, expected.weights)
    assert (found.weights - plain.infer(data).weights).abs().max() > 1e-3
