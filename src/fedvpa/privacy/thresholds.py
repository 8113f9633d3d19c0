"""How many nodes of a round must stay, and how many of them are counted on for noise."""

from __future__ import annotations

import math

FEWEST_NODES = 3
"""Of the sum over two nodes each of them can take its own part out, and reads the other's."""


def threshold_of(nodes: int, share: float) -> int:
    """How many of ``nodes`` must stay: more than this share of them, and ``FEWEST_NODES`` at least."""
    return max(FEWEST_NODES, math.floor(share * nodes + 1e-9) + 1)


def honest_of(threshold: int, share: float) -> int:
    """How many of the nodes that must stay are counted on to keep their noise to themselves.

    Args:
        threshold: How many must stay.
        share: ``privacy.honest_share``: this share of them, rounded down, one at least and never all: a node knows its
            own noise, and what holds must hold against it too.
    """
    return max(1, min(threshold - 1, math.floor(share * threshold + 1e-9)))
