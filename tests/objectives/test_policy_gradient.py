"""Advantages and surrogates beside hand arithmetic, exact expectations, and finite differences of nothing sampled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedvpa.objectives.policy_gradient import clipped_surrogate, kl_estimate, kl_surrogate, rloo_advantages, whiten

pytestmark = pytest.mark.unit


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_whitened_rewards_have_mean_0_and_deviation_1_whatever_their_units():
    rewards = logits(3, 5)
    found, varies = whiten(rewards)
    assert varies
    assert found.mean().item() == pytest.approx(0, abs=1e-12)
    assert found.square().mean().item() == pytest.approx(1)
    torch.testing.assert_close(whiten(1000 * rewards + 77)[0], found)


def test_rewards_that_do_not_vary_are_zeros():
    for value in (0.0, 0.1, -1e6):
        found, varies = whiten(torch.full((3, 5), value))
        assert not varies
        assert torch.equal(found, torch.zeros(3, 5))


def test_rloo_takes_the_mean_of_the_others():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    by_hand = torch.tensor([[1 - 4.0, 2 - 3.5, 6 - 1.5], [-1.5, -1.5, 3.0]])
    torch.testing.assert_close(rloo_advantages(rewards), by_hand)


def test_on_policy_the_surrogate_has_the_policy_gradient():
    log_probs, advantages = logits(4, 3).requires_grad_(), logits(4, seed=1)
    (found,) = torch.autograd.grad(clipped_surrogate(log_probs, log_probs.detach(), advantages, 0.2), log_probs)
    torch.testing.assert_close(found, advantages[:, None].expand(4, 3) / 4)


@pytest.mark.parametrize(
    ("advantage", "gap", "moves"),
    [(1.0, 0.5, False), (1.0, -0.5, True), (-1.0, 0.5, True), (-1.0, -0.5, False), (1.0, 0.1, True)],
)
def test_the_clip_stops_what_went_far_enough_and_nothing_that_went_wrong(advantage: float, gap: float, moves: bool):
    log_probs = torch.tensor([[gap]], requires_grad=True)
    (found,) = torch.autograd.grad(
        clipped_surrogate(log_probs, torch.zeros(1, 1), torch.tensor([advantage]), 0.2), log_probs
    )
    assert (found.item() != 0) == moves


def test_the_mean_of_the_kl_gradient_is_the_gradient_of_the_kl():
    # One token of five, the expectation over it written out: no sampling error hides a wrong estimator.
    free, reference = logits(5, seed=2).requires_grad_(), logits(5, seed=3).log_softmax(0)
    log_policy = free.log_softmax(0)
    exact = (log_policy.exp() * (log_policy - reference)).sum()
    (wanted,) = torch.autograd.grad(exact, free, retain_graph=True)
    parts = [
        torch.autograd.grad(
            kl_surrogate(log_policy[None, t : t + 1], reference[None, t : t + 1]), free, retain_graph=True
        )
        for t in range(5)
    ]
    found = sum(log_policy[t].exp().detach() * part for t, (part,) in enumerate(parts))
    torch.testing.assert_close(found, wanted)


def test_the_mean_of_the_kl_estimate_is_the_kl():
    policy, reference = (logits(5, seed=seed).log_softmax(0) for seed in (2, 3))
    values = torch.stack([kl_estimate(policy[None, t : t + 1], reference[None, t : t + 1]) for t in range(5)])
    assert (policy.exp() * values).sum().item() == pytest.approx((policy.exp() * (policy - reference)).sum().item())
    assert bool((values >= 0).all())
    assert kl_estimate(policy[None], policy[None]) == 0
