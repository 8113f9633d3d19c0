"""The KL to the mixture prior, against scipy and at its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from fedvpa.objectives.gaussian import standard_normal_kl
from fedvpa.objectives.mixture_prior import mixture_prior_kl

GENERATOR = torch.Generator().manual_seed(0)
K, J = 3, 5
Z, MEAN, LOG_VAR = (torch.randn(K, generator=GENERATOR) for _ in range(3))
MEANS, LOG_VARS = (torch.randn(J, K, generator=GENERATOR) for _ in range(2))
LOGITS, NOISE = (torch.randn(J, generator=GENERATOR) for _ in range(2))


@pytest.mark.reference
def test_it_is_the_log_ratio_of_densities_without_the_clients_own_component():
    available = torch.tensor([True, True, False, True, True])
    got = mixture_prior_kl(Z, MEAN, LOG_VAR, (MEANS, LOG_VARS), LOGITS, available, NOISE, 0.7, 0.1)

    def density(mean: torch.Tensor, log_var: torch.Tensor) -> float:
        return multivariate_normal(mean.numpy(), np.diag(log_var.exp().numpy())).pdf(Z.numpy())

    weights = torch.softmax(((LOGITS + NOISE) / 0.7)[available], 0)
    others = [density(m, v) for m, v in zip(MEANS[available], LOG_VARS[available], strict=True)]
    prior = 0.9 * float(weights @ torch.tensor(others, dtype=weights.dtype)) + 0.1 * density(
        torch.zeros(K), torch.zeros(K)
    )
    assert got.item() == pytest.approx(np.log(density(MEAN, LOG_VAR) / prior), rel=1e-4)


@pytest.mark.unit
def test_without_a_component_of_others_the_prior_is_standard_normal_and_gradients_are_finite():
    empty = MEANS[:0], LOG_VARS[:0]
    nothing = torch.zeros(0, dtype=torch.bool)
    none = mixture_prior_kl(Z, MEAN, LOG_VAR, empty, LOGITS[:0], nothing, NOISE[:0], 1.0, 0.1)
    logits = LOGITS[:1].clone().requires_grad_()
    own = MEANS[:1], LOG_VARS[:1]
    alone = mixture_prior_kl(Z, MEAN, LOG_VAR, own, logits, torch.tensor([False]), NOISE[:1], 1.0, 0.1)
    assert none.item() == alone.item() == standard_normal_kl(MEAN, LOG_VAR).item()
    alone.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
