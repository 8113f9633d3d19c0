"""What a client of a linear reward computes from its pairs in closed form: score, curvature, evidence.

For a head u that is linear in the features, Böhning's bound (Annals of the Institute of Statistical Mathematics 44,
1992) holds for the log-likelihood of a client's pairs around any u₀, because σ(1 − σ) ≤ ¼:

    Σ w log σ(u·Δh) ≥ Σ w log σ(u₀·Δh) + γ·(u − u₀) − ⅛ (u − u₀)ᵀ G (u − u₀),
    γ = Σ w σ(−u₀·Δh) Δh,     G = Σ w Δh Δhᵀ.

At u₀ = 0 it is the second-order expansion, and all that is known of the client is its *score* x = ½ Σ w Δh and G/4.
Under u ~ N(μ, v I) both have closed forms, and one decomposition G = B Bᵀ serves every v:

    evidence     ∫ ≥ Σ w log σ(μ·Δh) + ½ v γᵀ (I + vG/4)⁻¹ γ − ½ log |I + vG/4|      (u₀ = μ)
    about μ      x is N(GΔ, …), so that μ learns from (I + vG/4)⁻¹ x with curvature (I + vG/4)⁻¹ G/4

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
        if rows.shape[-2] < rows.shape[-1]:
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


def shrink(values: Float[Tensor, "*clients p"], variance: Float[Tensor, "*#clients m"]) -> Float[Tensor, "*clients m p"]:
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
    pairs: Pairs, spectrum: Spectrum, means: Float[Tensor, "*clients m d"], variances: Float[Tensor, " v"]
) -> Float[Tensor, "*clients m v"]:
    """Böhning's lower bound of log ∫ Π σ(u·Δh)^w N(u; μ_m, v I) du, in nats; n log ½ of it is what chance gives.

    Args:
        pairs: The client's pairs.
        spectrum: Of the same pairs.
        means: μ of each of m components.
        variances: Each v that is tried.
    """
    margins = means @ pairs.delta.mT
    weight = pairs.weight.unsqueeze(-2)
    at_mean = (choice_log_likelihood(margins) * weight).sum(-1)
    gradient = (weight * torch.sigmoid(-margins)) @ pairs.delta
    kept = shrink(spectrum.values, variances)
    gain = spectrum.along(gradient).square() @ kept.mT
    volume = kept.log().sum(-1)
    return at_mean.unsqueeze(-1) + 0.5 * (variances * gain + volume.unsqueeze(-2))
