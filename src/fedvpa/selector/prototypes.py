"""Orthogonal prototypes p_1 … p_M, and the balanced assignment of clients to them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def init_prototypes(count: int, latent: int, scale: float, generator: torch.Generator) -> Float[Tensor, "m k"]:
    """``count`` orthogonal rows of norm ``scale``, from the QR decomposition of a Gaussian matrix.

    Args:
        count: M ≤ latent.
        latent: k.
        scale: Norm of each row.
        generator: Where the Gaussian matrix comes from.
    """
    basis, _ = torch.linalg.qr(torch.randn(latent, count, generator=generator))
    return basis.T.contiguous() * scale


def balanced_assignment(means: Float[Tensor, "n k"], prototypes: Float[Tensor, "m k"]) -> Int[np.ndarray, " n"]:
    """Assign each client to a prototype, at most ⌈n/M⌉ to each, with the least total squared distance.

    The prototypes persist from round to round, so assigning *to them* also matches this round's clusters with the last
    round's: ids do not drift. Exact, by the Hungarian method on ⌈n/M⌉ copies of each prototype; O(n³), so meant for
    hundreds of clients.

    Args:
        means: Posterior means of the clients.
        prototypes: The prototypes of this round.
    """
    capacity = -(-len(means) // len(prototypes))
    cost = torch.cdist(means.double(), prototypes.double()).square().numpy()
    _, columns = linear_sum_assignment(np.repeat(cost, capacity, axis=1))
    return columns // capacity
