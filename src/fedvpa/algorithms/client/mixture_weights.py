"""A client's own weights of the mixture prior's components (E8): learned in local training, and never sent.

They are unnormalised log π, kept under the id of their component, so that it does not matter where in a message a
component stands, nor which others are in it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedvpa.core.tree import Tree

MEMORY = 256
"""Components whose weights a client remembers. Chosen by us."""


def load_weights(private: Tree, received: Tree) -> Tree:
    """``logits`` [j] of the components received, 0 for new ones; −∞ in ``available`` [j] for a client's own posterior.

    Args:
        private: What the client kept.
        received: With ``prior.keys`` [j] and, where components are posteriors, ``component``, the place of its own.
    """
    known, keys = _learned(private), received["prior.keys"]
    mine = torch.arange(len(keys)) == received.get("component", torch.tensor(-1))
    return {
        "logits": torch.tensor([known.get(key, 0.0) for key in keys.tolist()]),
        "available": torch.zeros(len(keys)).masked_fill(mine, -math.inf),
    }


def keep_weights(private: Tree, keys: Int[Tensor, " j"], logits: Float[Tensor, " j"]) -> Tree:
    """``keys`` and ``logits`` of the ``MEMORY`` components that a client met last, those of this round at the end."""
    learned = dict(zip(keys.tolist(), logits.tolist(), strict=True))
    older = {key: value for key, value in _learned(private).items() if key not in learned}
    kept = [*older.items(), *learned.items()][-max(MEMORY, len(learned)) :]
    return {
        "keys": torch.tensor([key for key, _ in kept], dtype=torch.int64),
        "logits": torch.tensor([value for _, value in kept], dtype=torch.float32),
    }


def _learned(private: Tree) -> dict[int, float]:
    """Id of a component → log π."""
    if "keys" not in private:
        return {}
    return dict(zip(private["keys"].tolist(), private["logits"].tolist(), strict=True))
