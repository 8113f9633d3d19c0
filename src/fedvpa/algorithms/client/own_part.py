"""A client's own part of the server's running means, which it keeps to itself: nobody else can know it."""

from __future__ import annotations

from torch import Tensor

from fedvpa.core.tree import Tree

STATISTICS = ("scores", "curvature")


def own_part(private: Tree, clock: Tensor) -> Tree:
    """What is left of a client's earlier visits in the running means.

    Args:
        private: The part after its last visit, and the clock of then.
        clock: Σ log(1 − ρ) of all rounds so far.
    """
    left = (clock - private["clock"]).exp()[..., None, None]
    return {name: left * private[name] for name in STATISTICS}


def after_visit(own: Tree, mine: Tree, received: Tree) -> Tree:
    """The client's part once this round is in the running means.

    Args:
        own: Before the round.
        mine: What the client sends.
        received: ``left``, 1 − ρ, and ``share``, what one visit of this round weighs.
    """
    left, share = received["left"][..., None, None], received["share"][..., None, None]
    part = {name: left * own[name] + share * mine[name] for name in own}
    return part | {"clock": received["clock"] + received["left"].log()}
