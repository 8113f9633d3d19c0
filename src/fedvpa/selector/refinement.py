"""Posterior refinement: the likelihood of a user's own labelled pairs under the current head, with the mixture prior.

log q*(z) = gain · Σ_context log σ(margin(z)) + log Σ_m π_m N(z; p_m, v I)

With a head whose margin is linear in z this is, per component, a concave problem of size k: a few Newton steps give
its mode and curvature (Laplace), and the components are weighted by their evidence. As v → 0 only the evidence at the
prototypes is left: the *responsibilities* r_m ∝ π_m exp(gain · Σ log σ(margin(p_m))), the E-step of a mixture of
users.

Not in the paper, where the mixture prior acts in training only.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.tree import Tree
from fedvpa.objectives.bradley_terry import choice_log_likelihood
from fedvpa.selector.heads import Head
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior

NEWTON_STEPS = 12
"""Chosen by us: from saturated margins the mode is reached to 1e-5 (``tests/selector``)."""

STEP_FRACTIONS = (1.0, 0.5, 0.25, 0.0625, 0.0)
"""Fractions of a Newton step that are tried."""


def evidence(
    head: Head, weights: Tree, context: Pairs, latents: Float[Tensor, "*#clients m k"]
) -> Float[Tensor, "*clients m"]:
    """Σ_context log σ(margin(z_m)): the log-likelihood of the context under each latent, in nats. 0 without context."""
    return (choice_log_likelihood(head.margins(weights, context, latents, None)) * context.weight.unsqueeze(-2)).sum(-1)


def responsibilities(
    log_likelihood: Float[Tensor, "*clients m"], log_prior: Float[Tensor, "*#clients m"], gain: Tensor
) -> Float[Tensor, "*clients m"]:
    """r_m ∝ π_m exp(gain · log-likelihood_m).

    Args:
        log_likelihood: Of the context at each prototype, from :func:`evidence`.
        log_prior: log π.
        gain: The inverse temperature; 1 is Bayes' rule.
    """
    return torch.softmax(log_prior + gain * log_likelihood, dim=-1)


def at_prototypes(
    log_likelihood: Float[Tensor, "*clients m"],
    prototypes: Float[Tensor, "*#clients m k"],
    log_prior: Float[Tensor, "*#clients m"],
    log_var: float,
    gain: Tensor,
) -> Posterior:
    """The posterior that puts each client on the prototypes, by its responsibilities."""
    weights = responsibilities(log_likelihood, log_prior, gain)
    return Posterior(
        weights, prototypes.expand(*weights.shape, -1), torch.full_like(prototypes, log_var).expand(*weights.shape, -1)
    )


def laplace(
    head: Head,
    weights: Tree,
    context: Pairs,
    prototypes: Float[Tensor, "*#clients m k"],
    log_prior: Float[Tensor, "*#clients m"],
    log_var: Float[Tensor, "*#clients"],
    gain: Tensor,
) -> Posterior:
    """Newton's method and Laplace's approximation around every prototype.

    Args:
        head: A head whose margin is linear in z.
        weights: Its weights.
        context: The labelled pairs.
        prototypes: Component means p_m.
        log_prior: log π.
        log_var: log v, the variance of a component.
        gain: Inverse temperature of the likelihood.

    Raises:
        ValueError: If the head's margin is not linear in z.
    """
    if head.linear is None:
        raise ValueError("Laplace refinement needs a head whose margin is linear in z: bilinear or mlp.")
    offset, slope = head.linear(weights, context)
    log_var = log_var.unsqueeze(-1)
    precision = (-log_var).exp().unsqueeze(-1)
    identity = torch.eye(prototypes.shape[-1], dtype=slope.dtype, device=slope.device)
    gain, slope = gain * context.weight.unsqueeze(-2), slope.unsqueeze(-3)
    z = prototypes.expand(*offset.shape[:-1], *prototypes.shape[-2:])
    centre = z

    def margins(z: Tensor) -> Tensor:
        return offset.unsqueeze(-2) + (slope @ z.unsqueeze(-1)).squeeze(-1)

    def log_joint(z: Tensor) -> Tensor:
        fit = (gain * choice_log_likelihood(margins(z))).sum(-1)
        return fit - 0.5 * precision.squeeze(-1) * (z - centre).square().sum(-1)

    def curvature(z: Tensor) -> tuple[Tensor, Tensor]:
        wrong = torch.sigmoid(-margins(z))
        spread = (gain * wrong * (1 - wrong)).unsqueeze(-1)
        gradient = ((gain * wrong).unsqueeze(-2) @ slope).squeeze(-2) - precision * (z - centre)
        return gradient, slope.mT @ (spread * slope) + precision.unsqueeze(-1) * identity

    for _ in range(NEWTON_STEPS):
        gradient, hessian = curvature(z)
        step = torch.linalg.solve(hessian, gradient)
        # Where the sigmoid is saturated a whole Newton step overshoots; the best of these fractions never does worse.
        tried = torch.stack([log_joint(z + fraction * step) for fraction in STEP_FRACTIONS])
        best = torch.tensor(STEP_FRACTIONS, dtype=z.dtype)[tried.argmax(0)]
        z = z + best.unsqueeze(-1) * step
    _, hessian = curvature(z)
    # Evidence up to what all components share: prior normaliser and Laplace's (2π)^{k/2} |H|^{-1/2}.
    log_evidence = log_joint(z) - 0.5 * (torch.linalg.slogdet(hessian).logabsdet + log_var * z.shape[-1])
    variance = torch.linalg.inv(hessian).diagonal(dim1=-2, dim2=-1)
    return Posterior(torch.softmax(log_prior + log_evidence, dim=-1), z, variance.log())
