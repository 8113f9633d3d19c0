from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from fedvpa.selector.simplex import BARRIERS, adapt_weights, fit_weights

B, N = 5, 7


def problem(*shape: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    margins = scale * torch.randn(*shape, generator=generator)
    return margins, 3 * torch.rand(*shape[:-2], shape[-1], generator=generator)


def likelihood(w: torch.Tensor, margins: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    mixed = (w.unsqueeze(-2) @ margins.double()).squeeze(-2)
    return (weight.double() * torch.nn.functional.logsigmoid(mixed)).sum(-1)


@pytest.mark.reference
def test_weights_are_those_that_an_independent_optimiser_finds():
    margins, weight = problem(B, N)
    found = fit_weights(margins, weight)

    def negative(w: np.ndarray) -> float:
        return -float(likelihood(torch.from_numpy(w), margins, weight))

    rule = {"type": "eq", "fun": lambda w: w.sum() - 1}
    best = minimize(negative, np.full(B, 1 / B), bounds=[(0, 1)] * B, constraints=[rule], options={"ftol": 1e-12})
    np.testing.assert_allclose(found.numpy(), best.x, atol=5e-4)


@pytest.mark.reference
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("shape", [(31, 2, 3), (31, 5, 101), (31, 13, 7)])
def test_the_fit_is_within_its_gap_of_the_best(scale: float, shape: tuple[int, ...]):
    margins, weight = problem(*shape, scale=scale)
    w = fit_weights(margins, weight).double().requires_grad_()
    (slope,) = torch.autograd.grad(likelihood(w, margins, weight).sum(), w)
    # f is concave, so no vertex, and no mixture of them, is better than by this much.
    gap = slope.amax(-1) - (w * slope).sum(-1)
    assert gap.max() <= 1.05 * shape[1] * BARRIERS[-1]
    torch.testing.assert_close(w.sum(-1), torch.ones(31, dtype=torch.float64))
    assert w.min() > 0


@pytest.mark.equivalence
def test_a_client_is_fitted_by_its_own_pairs_whoever_is_beside_it():
    margins, weight = problem(11, B, N)
    weight[0], weight[1, 3:] = 0, 0
    together = fit_weights(margins, weight)
    torch.testing.assert_close(together[0], torch.full((B,), 1 / B))
    torch.testing.assert_close(together[1], fit_weights(margins[1, :, :3], weight[1, :3]), atol=1e-6, rtol=0)
    twice = fit_weights(torch.cat([margins[2], margins[2]], -1), weight[2].repeat(2))
    torch.testing.assert_close(fit_weights(margins[2], 2 * weight[2]), twice, atol=1e-6, rtol=0)


@pytest.mark.unit
def test_a_step_of_adaption_follows_the_slope_of_the_mean_likelihood():
    margins, weight = problem(3, B, N)
    weight[1] = 0
    start = torch.randn(B, generator=torch.Generator().manual_seed(0)).expand(3, B)
    found = adapt_weights(start, margins, weight, 2, 0.7)
    by_hand = start.clone()
    for _ in range(2):
        logits = by_hand.clone().requires_grad_()
        total = likelihood(torch.softmax(logits.double(), -1), margins, weight) / weight.sum(-1).clamp(min=1e-9)
        by_hand = by_hand + 0.7 * torch.autograd.grad(total.sum(), logits)[0]
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[1], start[1])
