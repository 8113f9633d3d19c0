"""Weights on the simplex that fit a user's labelled pairs: how LoRe (arXiv 2504.14439) and MRM (2601.18731) infer z.

A user's margins are mixtures of those of B basis rewards, margin = Σ_b w_b margin_b with w ≥ 0 and Σ w = 1, so the
log-likelihood of the pairs, f(w) = Σ_pairs weight · log σ(margin), is concave in w and the fit has one best value.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.objectives.bradley_terry import choice_log_likelihood

BARRIERS = (1.0, 0.1, 1e-2, 1e-3, 1e-4)
"""The weight μ of the barrier μ·Σ log w_b in turn, in nats. At the last, f is within B·μ nats of its best: the duality
gap of a barrier method (Boyd and Vandenberghe, Convex Optimization, 2004, section 11.3). Chosen by us: with B = 8 that
is a thousandth of a nat."""

NEWTON_STEPS = 5
"""At each barrier. Chosen by us: with margins up to some tens of nats the gap above is reached (``tests/selector``)."""

STEP_FRACTIONS = (1.0, 0.5, 0.25, 0.0625, 0.0)
"""Fractions of a Newton step that are tried. The last keeps a step from doing harm."""

TO_THE_EDGE = 0.95
"""How much of the way to the nearest face of the simplex one step may go. Chosen by us."""


@torch.no_grad()
def fit_weights(
    margins: Float[Tensor, "*clients b n"], weight: Float[Tensor, "*clients n"]
) -> Float[Tensor, "*clients b"]:
    """The weights under which the pairs are most likely, to convergence, by Newton's method with a barrier.

    It is the limit of gradient steps on logits a with w = softmax(a), whatever they start from: f is concave in w.
    Without any pair the weights are uniform.

    Args:
        margins: Of each basis reward on each pair, in nats.
        weight: Of the pairs, 0 for padding.
    """
    each, g = margins.double(), weight.double().unsqueeze(-2)
    size = each.shape[-2]
    w = each.new_full(each.shape[:-1], 1 / size)
    if size == 1:
        return w.to(margins.dtype)
    for barrier in BARRIERS:
        for _ in range(NEWTON_STEPS):
            w = _newton_step(w, each, g, barrier)
    return w.to(margins.dtype)


def adapt_weights(
    logits: Float[Tensor, "*clients b"],
    margins: Float[Tensor, "*clients b n"],
    weight: Float[Tensor, "*clients n"],
    steps: int,
    rate: float,
) -> Float[Tensor, "*clients b"]:
    """Logits after a few gradient steps on the mean log-likelihood of the pairs, with w = softmax(logits).

    Args:
        logits: Where to start; unchanged where there is no pair.
        margins: Of each basis reward on each pair, in nats.
        weight: Of the pairs, 0 for padding.
        steps: How many.
        rate: Their size.
    """
    share = weight / weight.sum(-1, keepdim=True).clamp(min=1e-12)
    for _ in range(steps):
        w = torch.softmax(logits, -1)
        slope = _slope(w, margins, share.unsqueeze(-2))
        logits = logits + rate * w * (slope - (w * slope).sum(-1, keepdim=True))
    return logits


def _margin(w: Tensor, margins: Tensor) -> Tensor:
    return w.unsqueeze(-2) @ margins


def _slope(w: Tensor, margins: Tensor, weight: Tensor) -> Tensor:
    """∂f/∂w, shape [*clients, b]."""
    return (weight * torch.sigmoid(-_margin(w, margins)) * margins).sum(-1)


def _newton_step(w: Tensor, margins: Tensor, weight: Tensor, barrier: float) -> Tensor:
    """One damped Newton step on f(w) + μ Σ log w_b within Σ w = 1.

    In relative steps u, w ← w(1 + u), the system is (W MDMᵀ W + μ I) u = W ∂f + μ − ν w with W = diag(w) and
    D = diag(weight·p·(1 − p)): its matrix is never near singular, however small a weight. ν makes Σ w_b u_b = 0.
    """
    wrong = torch.sigmoid(-_margin(w, margins))
    scaled = w.unsqueeze(-1) * margins
    curvature = (scaled * (weight * wrong * (1 - wrong))) @ scaled.mT
    system = curvature + barrier * torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    right = torch.stack([(weight * wrong * scaled).sum(-1) + barrier, w], -1)
    free, normal = torch.linalg.solve(system, right).unbind(-1)
    u = free - normal * ((w * free).sum(-1, keepdim=True) / (w * normal).sum(-1, keepdim=True))
    longest = (TO_THE_EDGE / (-u).amax(-1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0)
    tried = torch.stack([w * (1 + fraction * longest * u) for fraction in STEP_FRACTIONS])
    likelihood = (weight * choice_log_likelihood(_margin(tried, margins))).sum((-1, -2))
    best = (likelihood + barrier * tried.log().sum(-1)).argmax(0)
    moved = tried.gather(0, best[None, ..., None].expand(1, *w.shape)).squeeze(0)
    return moved / moved.sum(-1, keepdim=True)
