"""Curves of a training over its rounds: how rough they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def roughness(values: Sequence[float]) -> float | None:
    """Root mean square of the second differences of a curve, in units of its range; a straight line has 0.

    ``√(mean_t (r_{t+1} − 2r_t + r_{t−1})²) / (max r − min r)``. Chosen by us: it does not depend on the unit of the
    reward, or on how steep the curve is as a whole. A curve that jumps between two values in every round has 2.

    Args:
        values: One per round, in the order of the rounds.

    Returns:
        None for fewer than three values, or if all are the same.
    """
    curve = np.asarray(values, dtype=np.float64)
    if len(curve) < 3 or not np.ptp(curve) > 0:
        return None
    return float(np.sqrt(np.mean(np.diff(curve, 2) ** 2)) / np.ptp(curve))
