"""Posterior refinement: the likelihood of a user's own labelled pairs under the current head, with the prior.

log q*(z) = gain · Σ_context log σ(margin(z)) + log Σ_m π_m N(z; μ_m, Σ_m)

With a head whose margin is linear in z this is, per component, a concave problem of size k: a few Newton steps give
its mode and curvature (Laplace), and the components are weighted by their evidence. As Σ → 0 only the evidence at the
means is left: the *responsibilities* r_m ∝ π_m exp(gain · Σ log σ(margin(μ_m))), the E-step of a mixture of
users.

Not in the paper, where the mixture prior acts in training only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.tree import Tree
from fedvpa.objectives.bradley_terry import choice_log_likelihood
from fedvpa.selector.heads import Head
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.prior import Prior

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


def at_prototypes(log_likelihood: Float[Tensor, "*clients m"], prior: Prior, gain: Tensor) -> Posterior:
    """The posterior that puts each client on the components of the prior, by its responsibilities.

    Args:
        log_likelihood: Of the context at each component's mean, from :func:`evidence`.
        prior: Its components.
        gain: The inverse temperature; 1 is Bayes' rule.
    """
    weights = responsibilities(log_likelihood, prior.log_weights, gain)
    shape = (*weights.shape, prior.means.shape[-1])
    return Posterior(weights, prior.means.expand(shape), prior.log_vars.expand(shape))


def laplace(head: Head, weights: Tree, context: Pairs, prior: Prior, gain: Tensor) -> Posterior:
    """Newton's method and Laplace's approximation around every component of the prior.

    It works on z' with z = μ + σ z', whose prior is N(0, I): a component without variance (σ = 0) stays at its mean.
    Where there are fewer pairs than latent dimensions it works in the span of the pairs: the same mode and curvature
    from n × n systems instead of k × k.

    Args:
        head: A head whose margin is linear in z.
        weights: Its weights.
        context: The labelled pairs.
        prior: Of m components; any leading axes are the clients'.
        gain: Inverse temperature of the likelihood.

    Raises:
        ValueError: If the head's margin is not linear in z.
    """
    offset, slope = _linear(head, weights, context)
    shape = (*context.weight.shape[:-1], *prior.means.shape[-2:])
    centre, spread = prior.means.expand(shape), (0.5 * prior.log_vars).exp()
    offset = offset + (slope @ centre.unsqueeze(-1)).squeeze(-1)
    slope = slope * spread.unsqueeze(-2)
    unit = offset.new_ones(1, 1, 1)
    z, log_evidence, variance = _solve(offset, slope, gain * context.weight.unsqueeze(-2), unit)
    log_vars = prior.log_vars + variance().log()
    return Posterior(torch.softmax(prior.log_weights + log_evidence, dim=-1), centre + spread * z, log_vars)


def margin_variances(
    head: Head,
    weights: Tree,
    context: Pairs,
    prior: Prior,
    gain: Tensor,
    modes: Float[Tensor, "m k"],
    pairs: Pairs,
) -> Float[Tensor, "m n"]:
    """Variances of the margins of further pairs of one user, under each component of Laplace's approximation.

    That is sᵀH⁻¹s with H = Σ⁻¹ + SᵀDS in full, where :func:`laplace` keeps the diagonal of H⁻¹ alone: what the pairs
    say about a direction in which no axis lies is lost in a diagonal. Computed in double precision.

    Args:
        head: A head whose margin is linear in z.
        weights: Its weights.
        context: The user's labelled pairs.
        prior: Of m components.
        gain: Inverse temperature of the likelihood.
        modes: The means of the posterior's components, from :func:`laplace`.
        pairs: The n further pairs.

    Raises:
        ValueError: If the head's margin is not linear in z.
    """
    spread = (0.5 * prior.log_vars.double()).exp()
    offset, slope = (part.double() for part in _linear(head, weights, context))
    wrong = torch.sigmoid(-offset - modes.double() @ slope[0].mT)
    known = (gain * context.weight * wrong * (1 - wrong)).sqrt().unsqueeze(-1) * slope * spread.unsqueeze(-2)
    asked = _linear(head, weights, pairs)[1].double() * spread.unsqueeze(-2)
    factor = torch.linalg.cholesky(known.mT @ known + _identity(known, known.shape[-1]))
    return torch.linalg.solve_triangular(factor, asked.mT, upper=False).square().sum(-2)


def modes(head: Head, weights: Tree, context: Pairs, log_vars: Float[Tensor, " m"]) -> Float[Tensor, "*clients m k"]:
    """The most likely z given the pairs and a prior N(0, v I), for each of m variances v: a path of ridge solutions.

    Args:
        head: A head whose margin is linear in z.
        weights: Its weights.
        context: The labelled pairs.
        log_vars: log v of each.

    Raises:
        ValueError: If the head's margin is not linear in z.
    """
    offset, slope = _linear(head, weights, context)
    offset = offset.expand(*offset.shape[:-2], len(log_vars), offset.shape[-1])
    return _solve(offset, slope, context.weight.unsqueeze(-2), (-log_vars).exp()[:, None, None])[0]


Solution = tuple[Float[Tensor, "*clients m k"], Float[Tensor, "*clients m"], Callable[[], Tensor]]
"""Of max_z Σ_i g_i log σ(o_i + s_i·z) − p/2 |z|²: mode, log evidence up to what all share, and how to get variances."""


def _linear(head: Head, weights: Tree, context: Pairs) -> tuple[Tensor, Tensor]:
    """Margins at z = 0, shape [*clients, 1, n], and their slopes in z, shape [*clients, 1, n, k]."""
    if head.linear is None:
        raise ValueError("Laplace refinement needs a head whose margin is linear in z: bilinear, linear or mlp.")
    offset, slope = head.linear(weights, context)
    return offset.unsqueeze(-2), slope.unsqueeze(-3)


def _solve(offset: Tensor, slope: Tensor, gain: Tensor, precision: Tensor) -> Solution:
    """In whichever space is smaller."""
    pairs, latent = slope.shape[-2:]
    return (_in_span if pairs < latent else _in_latent)(offset, slope, gain, precision)


def _in_latent(offset: Tensor, slope: Tensor, gain: Tensor, precision: Tensor) -> Solution:
    """By Newton's method on z, for no fewer pairs than dimensions.

    With S the slopes [n, k], w the probabilities of the other label and D = diag(g·w·(1 − w)), a step solves
    (p I + SᵀDS) Δz = Sᵀ(g·w) − p z.
    """

    def system(z: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
        spread = (gain * wrong * (1 - wrong)).unsqueeze(-1)
        gradient = ((gain * wrong).unsqueeze(-2) @ slope).squeeze(-2) - precision.squeeze(-1) * z
        return gradient, slope.mT @ (spread * slope) + precision * _identity(slope, slope.shape[-1])

    start = offset.new_zeros(*offset.shape[:-1], slope.shape[-1])
    z, log_evidence, hessian = _newton(start, offset, slope, lambda z: z, gain, precision, system)
    return z, log_evidence, lambda: torch.linalg.inv(hessian).diagonal(dim1=-2, dim2=-1)


def _in_span(offset: Tensor, slope: Tensor, gain: Tensor, precision: Tensor) -> Solution:
    """The same in the span of the pairs, z = Sᵀa, for fewer pairs than dimensions: matrices are n × n, not k × k.

    With K = SSᵀ, the Newton step of :func:`_in_latent` is Δz = SᵀΔa with (p I + DK) Δa = g·w − p a, because
    (p I + SᵀDS)⁻¹Sᵀ = Sᵀ(p I + DK)⁻¹. By Sylvester's identity |p I + SᵀDS| = p^(k−n) |p I + DK|, and by Woodbury's
    (p I + SᵀDS)⁻¹ = (I − Sᵀ(p I + DK)⁻¹DS)/p.
    """
    kernel = slope @ slope.mT

    def system(a: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
        spread = (gain * wrong * (1 - wrong)).unsqueeze(-1)
        gradient = gain * wrong - precision.squeeze(-1) * a
        return gradient, spread * kernel + precision * _identity(slope, slope.shape[-2])

    start = torch.zeros_like(offset)
    a, log_evidence, matrix = _newton(start, offset, kernel, _times(kernel), gain, precision, system)

    def variance() -> Tensor:
        wrong = torch.sigmoid(-offset - _times(kernel)(a))
        fitted = torch.linalg.solve(matrix, (gain * wrong * (1 - wrong)).unsqueeze(-1) * slope)
        # The share of the prior's variance that is left. Rounding must not make it negative.
        left = (1 - (slope * fitted).sum(-2)).clamp(min=torch.finfo(slope.dtype).eps)
        return left / precision.squeeze(-1)

    return _times(slope.mT)(a), log_evidence, variance


def _newton(
    start: Tensor,
    offset: Tensor,
    matrix: Tensor,
    conjugate: Callable[[Tensor], Tensor],
    gain: Tensor,
    precision: Tensor,
    system: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor, Tensor]:
    """Damped Newton steps on coordinates u, in which margins are offset + matrix·u.

    Args:
        start: The first u, zeros of shape [*clients, m, q].
        offset: Margins at u = 0, shape [*clients, m, n].
        matrix: Shape [*clients, 1, n, q].
        conjugate: u → the vector whose product with u is |z|².
        gain: Weight of each pair, shape [*clients, 1, n].
        precision: p, shape [*clients, m, 1, 1] or one that expands to it.
        system: (u, probability of the other label) → the right side of a Newton step, and its matrix.

    Returns:
        The mode, the log evidence, and the matrix at the mode.
    """
    linear = _times(matrix)

    def log_joint(u: Tensor) -> Tensor:
        fit = (gain * choice_log_likelihood(offset + linear(u))).sum(-1)
        return fit - 0.5 * precision[..., 0, 0] * (u * conjugate(u)).sum(-1)

    def at(u: Tensor) -> tuple[Tensor, Tensor]:
        return system(u, torch.sigmoid(-offset - linear(u)))

    u = start
    for _ in range(NEWTON_STEPS):
        gradient, hessian = at(u)
        step = torch.linalg.solve(hessian, gradient)
        # Where the sigmoid is saturated a whole Newton step overshoots; the best of these fractions never does worse.
        tried = torch.stack([log_joint(u + fraction * step) for fraction in STEP_FRACTIONS])
        best = torch.tensor(STEP_FRACTIONS, dtype=u.dtype)[tried.argmax(0)]
        u = u + best.unsqueeze(-1) * step
    _, hessian = at(u)
    # Up to what all components share: the prior's normaliser and Laplace's (2π)^{k/2} |H|^{-1/2}.
    volume = torch.linalg.slogdet(hessian).logabsdet - u.shape[-1] * precision[..., 0, 0].log()
    return u, log_joint(u) - 0.5 * volume, hessian


def _times(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda vector: (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def _identity(like: Tensor, size: int) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
