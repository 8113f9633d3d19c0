"""Whole numbers from shares: how many clients a group gets, and how many pairs of each group a client."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SINKHORN_STEPS = 200
_SINKHORN_TOLERANCE = 1e-6
_LEAST_SHARE = 1e-9


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers with the given sum, as near to ``shares`` as can be (largest remainder; ties to the first)."""
    exact = np.asarray(shares, dtype=float) / sum(shares) * total
    counts = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(-(exact - counts).round(9), kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return [int(count) for count in counts]


def shares_of_all(shares: Sequence[float], seen: int, unseen: int) -> tuple[float, ...]:
    """How many users of each group there have to be, so that those who train have the shares, and the others are even.

    Args:
        shares: Of each group among the seen users, in any unit.
        seen: How many users train.
        unseen: How many do not; they come evenly from the groups that have a share.

    Returns:
        A whole number for each group; the shares as they are if they are none.
    """
    if not np.isfinite(shares).all() or min(shares) < 0 or sum(shares) <= 0:
        return tuple(shares)
    own = zip(apportion(seen, shares), apportion(unseen, [float(share > 0) for share in shares]), strict=True)
    return tuple(float(training + other) for training, other in own)


def fit_table(
    mixtures: NDArray[np.float64], sizes: NDArray[np.float64], totals: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Scale (clients x groups) mixtures until rows sum to the sizes and columns, exactly, to the totals."""
    quotas = np.maximum(mixtures, _LEAST_SHARE) * (totals > 0)
    rows = sizes / sizes.sum() * totals.sum()
    for _ in range(_SINKHORN_STEPS):
        quotas *= (rows / quotas.sum(axis=1))[:, None]
        quotas *= totals / np.maximum(quotas.sum(axis=0), _LEAST_SHARE)
        if np.abs(quotas.sum(axis=1) / rows - 1).max() < _SINKHORN_TOLERANCE:
            break
    return quotas
