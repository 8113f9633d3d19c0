"""How weights travel: ``fp32`` as they are, ``fp16``, or ``int8`` with a scale per row.

Only weights (``params.*`` down, ``delta.*`` up) are encoded; statistics, prior and posteriors are small and stay fp32.
Encoding what was decoded gives the same bytes, so an engine in one process and Flower's messages agree.

A weight whose change is 0 throughout (of a client without pairs, or of a part of the weights that it did not train)
travels as its shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedvpa.core.tree import Tree
from fedvpa.engines.config import Codec

WEIGHTS = ("params.", "delta.")
SCALE = "#scale"
ZEROS = "#zeros"
LEVELS = 127


def encode(tree: Tree, codec: Codec) -> Tree:
    """What is sent. ``int8`` adds a float32 tensor ``<name>#scale``: the largest magnitude of each row over 127.

    In place of a change of 0 there is an int64 tensor ``<name>#zeros``, its shape.
    """
    encoded: Tree = {}
    for name, leaf in tree.items():
        if leaf.ndim and name.startswith("delta.") and not leaf.any():
            encoded[name + ZEROS] = torch.tensor(leaf.shape)
        elif codec == "fp32" or leaf.ndim == 0 or not name.startswith(WEIGHTS):
            encoded[name] = leaf
        elif codec == "fp16":
            encoded[name] = leaf.half()
        else:
            scale = leaf.abs().amax(-1, keepdim=True) / LEVELS
            encoded[name] = (leaf / scale.where(scale > 0, torch.ones_like(scale))).round().to(torch.int8)
            encoded[name + SCALE] = scale
    return encoded


def decode(tree: Tree, codec: Codec) -> Tree:
    """What arrives, in float32 again."""
    decoded = {
        name: _decoded(name, leaf, tree, codec) for name, leaf in tree.items() if not name.endswith((SCALE, ZEROS))
    }
    empty = {name.removesuffix(ZEROS): leaf for name, leaf in tree.items() if name.endswith(ZEROS)}
    # A view of one number: whatever shape a node claims, it takes no memory.
    return decoded | {name: torch.zeros(()).expand(leaf.tolist()) for name, leaf in empty.items()}


def _decoded(name: str, leaf: Tensor, tree: Tree, codec: Codec) -> Tensor:
    if codec == "fp16" and leaf.dtype == torch.float16:
        return leaf.float()
    if codec == "int8" and leaf.dtype == torch.int8:
        return leaf * tree[name + SCALE]
    return leaf
