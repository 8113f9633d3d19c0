"""Diagonal Gaussians and their mixtures: log-densities, and the Monte Carlo KL of FedVPA-GP (E1, E6, E7)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def gaussian_log_density(
    z: Float[Tensor, "*#batch k"], mean: Float[Tensor, "*#batch k"], log_var: Float[Tensor, "*#batch k"]
) -> Float[Tensor, "*batch"]:
    """Log N(z; mean, diag(exp(log_var))), summed over the latent dimensions, in nats."""
    return -0.5 * (log_var + (z - mean).square() * (-log_var).exp() + math.log(2 * math.pi)).sum(-1)


def standard_normal_kl(mean: Float[Tensor, "*batch k"], log_var: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """KL(N(mean, exp(log_var)) ‖ N(0, I)) in closed form, in nats. FedVPL's prior term."""
    return 0.5 * (mean.square() + log_var.exp() - 1.0 - log_var).sum(-1)


def mixture_log_density(
    z: Float[Tensor, "*batch k"],
    means: Float[Tensor, "*#batch j k"],
    log_vars: Float[Tensor, "*#batch j k"],
    log_weights: Float[Tensor, "*#batch j"],
) -> Float[Tensor, "*batch"]:
    """Log Σ_j w_j N(z; μ_j, σ_j²), by log-sum-exp (E6).

    Args:
        z: Points.
        means: Component means.
        log_vars: Component log-variances.
        log_weights: Normalised log-weights; −∞ leaves a component out.
    """
    return torch.logsumexp(log_weights + gaussian_log_density(z.unsqueeze(-2), means, log_vars), dim=-1)


def monte_carlo_kl(
    z: Float[Tensor, "*batch k"],
    mean: Float[Tensor, "*batch k"],
    log_var: Float[Tensor, "*batch k"],
    prior_log_density: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch"]:
    """Log q(z) − log p(z) at a reparameterised sample z ~ q: the one-sample estimate of KL(q ‖ p) (E7)."""
    return gaussian_log_density(z, mean, log_var) - prior_log_density


def gumbel_softmax_log_weights(
    logits: Float[Tensor, "*batch j"], gumbel: Float[Tensor, "*#batch j"], temperature: float | Tensor
) -> Float[Tensor, "*batch j"]:
    """Log w_j with w = softmax((log π + g)/τ) (E8).

    Args:
        logits: log π up to a constant; −∞ leaves a component out.
        gumbel: Gumbel(0, 1) noise.
        temperature: τ > 0.
    """
    return torch.log_softmax((logits + gumbel) / temperature, dim=-1)
