from __future__ import annotations

import math

import pytest
import torch

from fedvpa.objectives.dpo import dpo_loss


def numbers(count: int = 7) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [-20 * torch.rand(count, generator=generator, dtype=torch.float64) for _ in range(4)]


@pytest.mark.unit
def test_by_hand():
    # Gains 2 and −1 at β = 0.5: −log σ(1.5).
    found = dpo_loss(*(torch.tensor([value]) for value in (-3.0, -8.0, -5.0, -7.0)), 0.5)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-1.5)), abs=1e-6)


@pytest.mark.unit
def test_a_policy_that_is_its_reference_loses_log_2_at_any_beta():
    chosen, rejected, *_ = numbers()
    for beta in (0.1, 3.0):
        torch.testing.assert_close(
            dpo_loss(chosen, rejected, chosen, rejected, beta), torch.full_like(chosen, math.log(2))
        )


@pytest.mark.unit
def test_only_gains_count_and_the_other_order_has_the_other_probability():
    chosen, rejected, reference_chosen, reference_rejected = numbers()
    there = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, 0.7)
    back = dpo_loss(rejected, chosen, reference_rejected, reference_chosen, 0.7)
    torch.testing.assert_close((-there).exp() + (-back).exp(), torch.ones_like(there))
    moved = dpo_loss(chosen + 2, rejected - 3, reference_chosen + 2, reference_rejected - 3, 0.7)
    torch.testing.assert_close(moved, there)


@pytest.mark.unit
def test_the_gradient_raises_the_chosen_one_by_beta_times_the_odds_of_the_wrong_order():
    chosen, rejected, reference_chosen, reference_rejected = numbers()
    chosen.requires_grad_()
    rejected.requires_grad_()
    dpo_loss(chosen, rejected, reference_chosen, reference_rejected, 0.3).sum().backward()
    wrong = torch.sigmoid(-0.3 * ((chosen - reference_chosen) - (rejected - reference_rejected))).detach()
    torch.testing.assert_close(chosen.grad, -0.3 * wrong)
    torch.testing.assert_close(rejected.grad, 0.3 * wrong)


@pytest.mark.unit
def test_gaps_beyond_the_range_of_exp_stay_finite():
    far = torch.tensor([1000.0, -1000.0], requires_grad=True)
    zero = torch.zeros(2)
    loss = dpo_loss(far, zero, zero, zero, 1.0)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.tensor([0.0, 1000.0]))
    torch.testing.assert_close(far.grad, torch.tensor([0.0, -1.0]))
