"""A basis in which the differences of two responses are uncorrelated, from one sum over clients.

S = Σ w Δh Δhᵀ over training pairs, with Δh the difference of their scaled features and w their importance weights. S
adds up over clients, so streaming sums and secure aggregation give what pooled data give. Its eigenvectors, in the
order of their eigenvalues, are the columns of R, and the second moment of Rᵀ Δh is diagonal: what is diagonal in a
method (a penalty, a variance of each dimension) then fits the data. This is principal component analysis (Jolliffe,
2002) of differences, without a mean, since swapping the two responses of a pair changes the sign of Δh and no more.

S is d × d, so one client sends as much as d of its gradients. It is only a basis, and needs no more than some clients:
the ``MOST_CLIENTS`` with the smallest hashes of their ids contribute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from fedvpa.core.errors import DataError
from fedvpa.core.seeds import entropy
from fedvpa.selector.config import Rotation

MOST_CLIENTS = 256
"""So many clients contribute to S. Chosen by us: at 10 pairs each their pairs outnumber the dimensions of small models
several times, and the traffic does not grow with the federation."""

RELATIVE_RANK = 1e-9
"""A direction whose eigenvalue is below this fraction of the largest is left out: nobody's responses differ there, and
which vectors span such a space is decided by rounding. Chosen by us: above the error of float64 sums (about 1e-14),
below what float16 features resolve (about 1e-7)."""


def contributors(client_ids: Sequence[str]) -> tuple[str, ...]:
    """The clients that contribute to S, sorted: decided by id, so that a new client changes at most one of them."""
    chosen = sorted(client_ids, key=lambda name: entropy(0, "rotation", name))[:MOST_CLIENTS]
    return tuple(sorted(chosen))


def second_moment(
    chosen: Float[np.ndarray, "n d"], rejected: Float[np.ndarray, "n d"], weight: Float[np.ndarray, " n"]
) -> NDArray[np.float64]:
    """Σ w Δh Δhᵀ of some pairs, shape [d, d].

    Args:
        chosen: Scaled features of the preferred responses, float64.
        rejected: Of the others.
        weight: Importance weights.
    """
    difference = chosen - rejected
    return difference.T @ (difference * weight[:, None].astype(np.float64))


def rotation_of(moment: Float[np.ndarray, "d d"], asked: Rotation, beside: int = 0) -> NDArray[np.float32] | None:
    """R, shape [d, D + beside], from S; None if no rotation is asked for.

    D is what is asked for, and at most the number of directions in which responses differ. A vector has the sign under
    which its product with (cos 1, cos 2, …) is positive: eigenvectors have none of their own, and machines must agree.

    Args:
        moment: S.
        asked: The rotation.
        beside: How many of the last dimensions are no layer's: they stay as they are, behind the others.

    Raises:
        DataError: If S is zero.
    """
    if asked == "none":
        return None
    dimension = len(moment) - beside
    moment = moment[:dimension, :dimension]
    values, vectors = np.linalg.eigh((moment + moment.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > RELATIVE_RANK * values[0]).sum()) if values[0] > 0 else 0
    if not rank:
        raise DataError(
            "No pair of the training clients has two responses whose features differ, so there is no rotation.",
            fix="Check the pairs, or set selector.rotation=none.",
        )
    kept = vectors[:, : rank if asked == "full" else min(asked, rank)]
    signs = np.where(np.cos(np.arange(1, dimension + 1)) @ kept < 0, -1.0, 1.0)
    turned = np.zeros((dimension + beside, kept.shape[1] + beside), dtype=np.float32)
    turned[:dimension, : kept.shape[1]] = kept * signs
    turned[dimension:, kept.shape[1] :] = np.eye(beside)
    return turned


def name_of(rotation: Float[np.ndarray, "d D"]) -> str:
    """A hash of R, by which machines know whether they have the same one."""
    return hashlib.sha256(rotation.tobytes()).hexdigest()[:32]
