"""Weights of several objectives in one step: regularised MGDA (FIRM), and the server's weights of FedCMOO.

MGDA (Désidéri, Comptes Rendus Mathématique 350, 2012; Sener and Koltun, NeurIPS 2018, arXiv 1810.04650) takes the
shortest vector among the mixtures of the objectives' gradients: no objective falls along it. FIRM (arXiv 2511.16992)
regularises the weights in each client. Only its abstract was public when this was written, so the formulas are our
reading of it. FedCMOO (arXiv 2410.16398) weighs on the server, from the clients' gradients.

M is the number of objectives, ``gram`` the matrix ⟨g_j, g_k⟩ of their gradients, λ the weights, p the preference.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls
from torch import Tensor

Matrix = Float[Tensor, "objectives objectives"]
Weights = Float[Tensor, " objectives"]

TIE = 1e-8
"""Below this curvature of the problem (whose Gram matrix has a mean diagonal of 1) all weights count as equally good,
and p is taken. Chosen by us: above the rounding of double precision, below any difference that matters."""

FEDCMOO_FLOOR, FEDCMOO_RATE, FEDCMOO_STEPS = 1e-4, 1e-3, 1000
"""What FedCMOO's server adds to the squared norms, its step and its number of steps: read in the
authors' code (askinb/FedCMOO)."""


def gram(gradients: Float[Tensor, "objectives weights"]) -> Matrix:
    """⟨g_j, g_k⟩ of gradients, one per row, in double precision and on the CPU, where so small a problem is solved."""
    rows = gradients.double()
    return (rows @ rows.T).cpu()


def common_scale(matrix: Matrix) -> Matrix:
    """Ĝ = G / (trace G / M): the mean squared norm becomes 1, and the ratios of the norms stay.

    Unit gradients instead would hide which objective is steeper: for M = 2 every ρ would give λ = ½ at p = ½. A matrix
    of zeros stays as it is.
    """
    mean = matrix.diagonal().mean()
    return matrix / mean if mean > 0 else matrix


def regularised_mgda(matrix: Matrix, preference: Weights, rho: float) -> Weights:
    """λ = argmin over the simplex of ½·λᵀĜλ + (ρ/2)·‖λ − p‖².

    ρ = 0 is MGDA; the larger ρ, the closer λ to p, and the less it depends on a client's own gradients:
    ‖λ(Ĝ) − λ(Ĝ′)‖ ≤ ‖Ĝ − Ĝ′‖/ρ. Where several weights are equally good (equal gradients at ρ = 0), the nearest to p.

    Args:
        matrix: Ĝ, from :func:`common_scale`; positive semi-definite.
        preference: p, on the simplex.
        rho: ρ ≥ 0.

    Returns:
        λ in double precision; a vertex is exactly 0 and 1.
    """
    whole, target = matrix.double(), preference.double()
    return _two(whole, target, rho) if len(target) == 2 else _several(whole, target, max(rho, TIE))


def _two(matrix: Matrix, preference: Weights, rho: float) -> Weights:
    """The closed form: λ_1 = clip((Ĝ_22 − Ĝ_12 + 2ρp_1) / (Ĝ_11 − 2Ĝ_12 + Ĝ_22 + 2ρ), 0, 1)."""
    curvature = matrix[0, 0] - 2 * matrix[0, 1] + matrix[1, 1] + 2 * rho
    if curvature <= TIE:
        return preference.clone()
    first = ((matrix[1, 1] - matrix[0, 1] + 2 * rho * preference[0]) / curvature).clamp(0, 1)
    return torch.stack([first, 1 - first])


def _several(matrix: Matrix, preference: Weights, rho: float) -> Weights:
    """Any M, ρ > 0: the shortest vector R·λ over the simplex, by Lawson and Hanson's non-negative least squares.

    On the simplex p = p·(1ᵀλ), so both terms are lengths: R stacks a root of Ĝ on √ρ·(I − p1ᵀ). And μ ≥ 0 that
    minimises ‖Rμ‖² + (1ᵀμ − 1)² points to the same λ = μ / 1ᵀμ: at a length s of μ the sum is s²·‖Rλ‖² + (s − 1)²,
    whose least value over s grows with ‖Rλ‖.
    """
    values, vectors = np.linalg.eigh(matrix.numpy())
    root = np.sqrt(values.clip(min=0))[:, None] * vectors.T
    count = len(values)
    pull = np.sqrt(rho) * (np.eye(count) - np.outer(preference.numpy(), np.ones(count)))
    system = np.concatenate([root, pull, np.ones((1, count))])
    found, _ = nnls(system, np.append(np.zeros(2 * count), 1.0))
    return torch.from_numpy(found / found.sum())


def project_to_simplex(values: Weights) -> Weights:
    """The nearest point of the simplex: a common shift, then negative entries become 0.

    Held, Wolfe and Crowder, Mathematical Programming 6, 1974.
    """
    ordered = values.sort(descending=True).values
    counts = torch.arange(1, len(values) + 1, dtype=values.dtype)
    shifts = (ordered.cumsum(0) - 1) / counts
    kept = int((ordered > shifts).sum())
    return (values - shifts[kept - 1]).clamp(min=0)


def fedcmoo_weights(matrix: Matrix, start: Weights) -> Weights:
    """The weights of FedCMOO's server: projected gradient steps on ½·λᵀGλ, G divided by (mean_j √(G_jj + 1e-4))².

    The steps are few and small, so the weights move slowly from round to round; they are not the minimum.

    Args:
        matrix: G, of the cohort's mean gradients.
        start: The weights of the round before.
    """
    scaled = matrix.double() / (matrix.double().diagonal() + FEDCMOO_FLOOR).sqrt().mean().square()
    found = start.double()
    for _ in range(FEDCMOO_STEPS):
        found = project_to_simplex(found - FEDCMOO_RATE * (scaled @ found))
    return found


def is_vertex(weights: Weights) -> bool:
    """Whether one objective has all the weight."""
    return bool((weights == 1).any())


def disagreement(weights: Float[Tensor, "clients objectives"]) -> float:
    """D_λ = mean over clients of ‖λ_i − λ̄‖: how differently clients weigh the objectives."""
    return float((weights - weights.mean(0)).norm(dim=1).mean())
