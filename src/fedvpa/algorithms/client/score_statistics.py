"""What a client of a linear reward computes from its pairs in closed form: score, curvature, evidence.

Near u = 0 the log-likelihood of a client's pairs is x·u − ⅛ uᵀGu + n log ½, with n = Σ w, the *score* x = ½ Σ w Δh and
G = Σ w Δh Δhᵀ. One decomposition of G serves every variance v of a component u ~ N(μ, v I):

    about μ      x has mean G/4 μ, so that μ learns from (I + vG/4)⁻¹ x with curvature (I + vG/4)⁻¹ G/4
    evidence     log ∫ Π σ(u·Δh)^w N(u; μ, v I) du by Laplace's method, with the likelihood itself and the curvature
                 h̄G: the mean curvature of the pairs in place of one for each, so that nothing is inverted

v → 0 is a group without individuals: the evidence is the likelihood at μ, and x counts in full.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.short_repr import short_repr
from fedvpa.objectives.bradley_terry import choice_log_likelihood
from fedvpa.selector.pairs import Pairs

RELATIVE_RANK = 1e-6
"""A direction in which G is below this fraction of its largest eigenvalue holds no evidence. Chosen by us: above the
rounding of float32."""

MODE_STEPS = 4
"""Steps to the mode. Chosen by us: the evidence is then within 0.1 nats (``tests/algorithms/client``)."""


@dataclass(frozen=True, repr=False)
class Spectrum:
    """G = Σ w Δh Δhᵀ of each client, as B Bᵀ with orthogonal columns.

    Attributes:
        factors: B, shape [*clients, d, p], with p the smaller of pairs and features.
        values: The squared lengths of its columns, which are the eigenvalues of G, shape [*clients, p].
    """

    factors: Float[Tensor, "*clients d p"]
    values: Float[Tensor, "*clients p"]

    __repr__ = short_repr

    @classmethod
    def of(cls, pairs: Pairs) -> Spectrum:
        """Of a client's pairs: from n × n products where there are fewer pairs than features, else from d × d ones."""
        rows = pairs.weight.sqrt().unsqueeze(-1) * pairs.delta
        if 0 < rows.shape[-2] < rows.shape[-1]:
            values, vectors = torch.linalg.eigh(rows @ rows.mT)
            factors = rows.mT @ vectors
        else:
            values, vectors = torch.linalg.eigh(rows.mT @ rows)
            factors = vectors * values.clamp(min=0).sqrt().unsqueeze(-2)
        known = values > RELATIVE_RANK * values.amax(-1, keepdim=True).clamp(min=torch.finfo(values.dtype).tiny)
        return cls(factors * known.unsqueeze(-2), values * known)

    def along(self, vectors: Float[Tensor, "*clients m d"]) -> Float[Tensor, "*clients m p"]:
        """Coordinates of vectors along the eigenvectors of G; 0 where there is no evidence."""
        length = self.values.sqrt().unsqueeze(-2)
        return torch.where(length > 0, vectors @ self.factors / length.clamp(min=1e-30), 0.0)


def shrink(
    values: Float[Tensor, "*clients p"], variance: Float[Tensor, "*#clients m"]
) -> Float[Tensor, "*clients m p"]:
    """1/(1 + v λ/4) for each eigenvalue λ of G and each variance v."""
    return 1 / (1 + variance.unsqueeze(-1) * values.unsqueeze(-2) / 4)


def contribution(
    pairs: Pairs, spectrum: Spectrum, variance: Float[Tensor, "*#clients m"]
) -> tuple[Float[Tensor, "*clients m d"], Float[Tensor, "*clients m d"]]:
    """What a client says about the mean of a component: (I + vG/4)⁻¹ x, and the diagonal of (I + vG/4)⁻¹ G/4.

    Args:
        pairs: The client's pairs.
        spectrum: Of the same pairs.
        variance: v of each of m components.
    """
    score = 0.5 * (pairs.weight.unsqueeze(-1) * pairs.delta).sum(-2)
    kept = shrink(spectrum.values, variance)
    left = spectrum.along(score.unsqueeze(-2)) * kept
    unit = spectrum.factors / spectrum.values.sqrt().clamp(min=1e-30).unsqueeze(-2)
    return left @ unit.mT, (kept / 4) @ spectrum.factors.square().mT


def log_evidence(
    pairs: Pairs, spectrum: Spectrum, means: Float[Tensor, "*clients m d"], variances: Float[Tensor, "*each v"]
) -> Float[Tensor, "*clients m v"]:
    """Log ∫ Π σ(u·Δh)^w N(u; μ_m, v I) du, in nats, as the module says: exact for v = 0.

    The mode is μ + v a. Its steps have the curvature of the bound of Jaakkola and Jordan (Statistics and Computing 10,
    2000), tanh(f/2)/(2f), in the mean over pairs: at least that of the likelihood, so that they do not overshoot.

    Args:
        pairs: The client's pairs.
        spectrum: Of the same pairs.
        means: μ of each of m components.
        variances: Each v that is tried: the same ones around every mean, or shape [*clients, m, v].
    """
    rows = spectrum.along(pairs.delta)[..., None, :, :]
    at_mean, weight = (means @ pairs.delta.mT).unsqueeze(-2), pairs.weight[..., None, None, :]
    values, v = spectrum.values[..., None, None, :], variances.unsqueeze(-1)
    count = weight.sum(-1).clamp(min=torch.finfo(weight.dtype).tiny)
    step = values.new_zeros(*at_mean.shape[:-2], variances.shape[-1], values.shape[-1])
    for _ in range(MODE_STEPS):
        margins = at_mean + (v * step) @ rows.mT
        half = (margins.abs() / 2).clamp(min=1e-3)
        bound = (weight * torch.tanh(half) / (4 * half)).sum(-1) / count
        gradient = (weight * torch.sigmoid(-margins)) @ rows
        step = step + (gradient - step) / (1 + v * bound.unsqueeze(-1) * values)
    margins = at_mean + (v * step) @ rows.mT
    curvature = (weight * torch.sigmoid(margins) * torch.sigmoid(-margins)).sum(-1) / count
    volume = torch.log1p(v * curvature.unsqueeze(-1) * values)
    return (weight * choice_log_likelihood(margins)).sum(-1) - 0.5 * (v * step.square() + volume).sum(-1)
