"""Expected information about z: against brute-force quadrature in two dimensions, and its identities."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import expit, xlogy

from fedvpa.objectives.bradley_terry import choice_log_likelihood
from fedvpa.selector.config import InferenceConfig, SelectorConfig
from fedvpa.selector.heads import HEADS
from fedvpa.selector.information import _sampled, expected_information, information, margin_moments
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector
from fedvpa.serving.judged_pairs import context_of

D, K, N, POOL = 5, 2, 7, 11


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(count: int, seed: int) -> Pairs:
    return Pairs(*normal(2, count, D, seed=seed), torch.linspace(0.5, 2, count).double(), torch.ones(count).double())


def make(method: str = "laplace", head: str = "bilinear", gain: float = 0.7) -> Selector:
    params = {
        "head.base": normal(D, seed=1),
        "head.personal": normal(K, D, seed=2),
        "prototypes": normal(2, K, seed=3),
        "log_vars": normal(2, K, seed=4),
    }
    shape = SelectorConfig(latent=K, prototypes=2, head=head)
    if head == "residual":
        weights = HEADS[head].init(D, shape, torch.Generator().manual_seed(7))
        params = {name: leaf for name, leaf in params.items() if name != "head.personal"}
        params |= {f"head.{name}": 3 * leaf.double() for name, leaf in weights.items()}
    prior = torch.tensor([0.3, 0.7]).double().log()
    return Selector(shape, InferenceConfig(method=method), params, prior, torch.tensor(gain).double())


def by_quadrature(selector: Selector, posterior: Posterior, pool: Pairs) -> np.ndarray:
    """H(E[p]) − E[H(p)] on a grid of z of eight standard deviations around each component."""
    grid = np.linspace(-8, 8, 401)
    mass = np.exp(-0.5 * grid**2)
    mass /= mass.sum()
    offset, slope = (part.numpy() for part in selector.head.linear({"base": selector.params["head.base"],
                     "personal": selector.params["head.personal"]}, pool))  # fmt: skip
    marginal, conditional = np.zeros(POOL), np.zeros(POOL)
    for weight, mean, log_var in zip(*(leaf.numpy() for leaf in vars(posterior).values()), strict=True):
        axes = [mean[axis] + math.exp(0.5 * log_var[axis]) * grid for axis in range(K)]
        share = weight * mass[:, None] * mass[None, :]
        for row in range(POOL):
            p = expit(offset[row] + slope[row, 0] * axes[0][:, None] + slope[row, 1] * axes[1][None, :])
            marginal[row] += (share * p).sum()
            conditional[row] -= (share * (xlogy(p, p) + xlogy(1 - p, 1 - p))).sum()
    return -xlogy(marginal, marginal) - xlogy(1 - marginal, 1 - marginal) - conditional


@pytest.mark.reference
def test_information_is_that_of_quadrature_in_two_dimensions():
    selector, context, pool = make("responsibilities"), pairs(N, 5), pairs(POOL, 6)
    posterior = selector.infer(context)
    found = expected_information(selector, posterior, context, pool)
    exact = by_quadrature(selector, posterior, pool)
    assert exact.max() > 0.05
    assert_allclose(found, exact, atol=1e-6)


@pytest.mark.reference
def test_the_integral_is_right_for_margins_that_are_ten_nats_wide():
    grid = np.linspace(-12, 12, 20001)
    mass = np.exp(-0.5 * grid**2) / np.exp(-0.5 * grid**2).sum()
    for mean, deviation in ((0.0, 10.0), (3.0, 10.0), (-7.0, 5.0), (0.4, 1.0)):
        p = expit(mean + deviation * grid)
        marginal = (mass * p).sum()
        exact = -xlogy(marginal, marginal) - xlogy(1 - marginal, 1 - marginal)
        exact += (mass * (xlogy(p, p) + xlogy(1 - p, 1 - p))).sum()
        moments = (torch.full((1, 1), value).double() for value in (mean, deviation**2))
        assert float(information(torch.ones(1).double(), *moments)) == pytest.approx(exact, abs=1e-6)


@pytest.mark.reference
def test_variances_of_margins_are_those_of_the_whole_curvature():
    selector, context, pool = make(), pairs(N, 5), pairs(POOL, 6)
    posterior = selector.infer(context)
    _, found = margin_moments(selector, posterior, context, pool)
    weights = {"base": selector.params["head.base"], "personal": selector.params["head.personal"]}
    slope = selector.head.linear(weights, pool)[1]
    for component in range(2):
        precision = (-selector.prior.log_vars[component]).exp()

        def loss(z: torch.Tensor, component: int = component, precision: torch.Tensor = precision) -> torch.Tensor:
            fit = choice_log_likelihood(selector.head.margins(weights, context, z.unsqueeze(0), None))
            off = z - selector.prior.means[component]
            return 0.5 * (precision * off * off).sum() - selector.gain * (context.weight * fit).sum()

        z = posterior.means[component].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(z), z, create_graph=True)
        hessian = torch.stack([torch.autograd.grad(each, z, retain_graph=True)[0] for each in gradient])
        exact = (slope @ torch.linalg.inv(hessian) * slope).sum(-1)
        torch.testing.assert_close(found[component], exact, rtol=1e-4, atol=1e-8)
        diagonal = slope.square() @ posterior.log_vars[component].exp()
        assert not torch.allclose(exact, diagonal, rtol=1e-3)


@pytest.mark.unit
@pytest.mark.parametrize("method", ["laplace", "responsibilities", "ridge"])
def test_which_response_comes_first_and_every_order_make_no_difference(method: str):
    selector, context, pool = make(method), pairs(N, 5), pairs(POOL, 6)
    posterior = selector.infer(context)
    found = expected_information(selector, posterior, context, pool)
    swapped = expected_information(selector, posterior, context, pool.swapped())
    torch.testing.assert_close(swapped, found, atol=1e-12, rtol=0)
    order = np.random.default_rng(0).permutation(POOL)
    torch.testing.assert_close(
        expected_information(selector, posterior, context, pool.rows(order)), found[torch.from_numpy(order)]
    )
    again = context.rows(np.random.default_rng(1).permutation(N))
    torch.testing.assert_close(
        expected_information(selector, selector.infer(again), again, pool), found, atol=1e-6, rtol=0
    )


@pytest.mark.unit
def test_a_known_z_is_told_nothing_and_two_that_disagree_a_bit_at_most():
    selector, context, pool = make("responsibilities"), pairs(N, 5), pairs(POOL, 6)
    one = torch.full((2, K), 0.3).double()
    known = Posterior(torch.tensor([0.4, 0.6]).double(), one, torch.full_like(one, -math.inf))
    assert expected_information(selector, known, context, pool).max() < 1e-12
    for share in (0.5, 0.1):
        apart = torch.tensor([share, 1 - share]).double()
        found = information(apart, torch.tensor([[60.0], [-60.0]]).double(), torch.zeros(2, 1).double())
        assert float(found) == pytest.approx(-(xlogy(share, share) + xlogy(1 - share, 1 - share)), abs=1e-6)
    noisy = information(torch.tensor([0.5, 0.5]).double(), torch.zeros(2, 1).double(), torch.zeros(2, 1).double())
    assert float(noisy) == pytest.approx(0, abs=1e-12)


@pytest.mark.unit
def test_what_was_asked_along_no_axis_is_not_asked_again():
    """The diagonal of a covariance forgets it: with one component there is nothing else that could know."""
    wide, latent = 23, 19
    params = {"head.base": torch.zeros(wide).double(), "head.personal": normal(latent, wide, seed=2),
              "prototypes": torch.zeros(1, latent).double(), "log_vars": torch.zeros(1, latent).double()}  # fmt: skip
    config = SelectorConfig(latent=latent, prototypes=1)
    selector = Selector(config, InferenceConfig(method="laplace"), params, torch.zeros(1).double(), torch.tensor(1.0))
    side = normal(1, wide, seed=8)
    once = Pairs(side, -side, torch.ones(1).double(), torch.ones(1).double())
    tie = context_of(replace(once, weight=torch.full((1,), 50.0).double()), [True])
    before = expected_information(selector, selector.prior.posterior(), replace(once, weight=0 * once.weight), once)
    after = expected_information(selector, selector.infer(tie), tie, once)
    assert float(before) > 0.4
    assert float(after) < 0.1


@pytest.mark.unit
def test_draws_of_z_agree_with_the_integral_and_serve_a_head_that_is_not_linear():
    selector, context, pool = make("responsibilities"), pairs(N, 5), pairs(POOL, 6)
    posterior = selector.infer(context)
    exact = expected_information(selector, posterior, context, pool)
    torch.testing.assert_close(_sampled(selector, posterior, pool, 3), exact, atol=0.03, rtol=0)
    residual = make("responsibilities", head="residual")
    prior = residual.prior.posterior()
    found = expected_information(residual, prior, context, pool, seed=3)
    assert found.equal(expected_information(residual, prior, context, pool, seed=3))
    assert not found.equal(expected_information(residual, prior, context, pool, seed=4))
    assert found.max() > 0.01
