"""How weights travel: ``fp32`` as they are, ``fp16``, or ``int8`` with a scale per row.

Only weights (``params.*`` down, ``delta.*`` up) are encoded; statistics and prior are small and stay fp32.
Of ``delta.*``, weight times change, the change is encoded, so that no number of pairs makes it overflow. Encoding what
was decoded gives the same bytes, so an engine in one process and Flower's messages agree.

A weight whose change is 0 throughout (of a client without pairs, or of a part of the weights that it did not train)
travels as its shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedvpa.algorithms.server.rejections import NOT_FINITE
from fedvpa.core.errors import TrainingError
from fedvpa.core.tree import Tree
from fedvpa.engines.config import Codec

WEIGHTS = ("params.", "delta.")
SCALE = "#scale"
ZEROS = "#zeros"
LEVELS = 127
LARGEST = torch.finfo(torch.float16).max


def encode(tree: Tree, codec: Codec) -> Tree:
    """What is sent. ``int8`` adds a float32 tensor ``<name>#scale``: the largest magnitude of each row over 127.

    In place of a change of 0 there is an int64 tensor ``<name>#zeros``, its shape. A change that is too large for
    ``fp16`` becomes infinite, so that the server rejects it: see :func:`hint`.

    Raises:
        TrainingError: If weights of the server are too large for ``fp16``.
    """
    encoded: Tree = {}
    for name, leaf in tree.items():
        if leaf.ndim and name.startswith("delta.") and not leaf.any():
            encoded[name + ZEROS] = torch.tensor(leaf.shape)
        elif codec == "fp32" or leaf.ndim == 0 or not name.startswith(WEIGHTS):
            encoded[name] = leaf
        elif codec == "fp16":
            encoded[name] = (leaf / _times(name, tree)).half()
            if name.startswith("params.") and encoded[name].isinf().any():
                raise TrainingError(
                    f"{name} has a weight beyond {LARGEST:,.0f}, the most that engine.codec=fp16 carries."
                )
        else:
            change = leaf.float() / _times(name, tree)
            scale = _short(change.abs().amax(-1, keepdim=True) / LEVELS)
            levels = (change / scale.where(scale > 0, torch.ones_like(scale))).round().clamp(-LEVELS, LEVELS)
            encoded[name] = levels.to(torch.int8)
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


def hint(reason: str, codec: Codec) -> str:
    """What is to be added to the reason why an update was rejected: ``fp16`` may have made it infinite."""
    if codec != "fp16" or NOT_FINITE not in reason:
        return ""
    return f" (or beyond {LARGEST:,.0f}, the most that engine.codec=fp16 carries)"


def _decoded(name: str, leaf: Tensor, tree: Tree, codec: Codec) -> Tensor:
    if codec == "fp16" and leaf.dtype == torch.float16:
        return leaf.float() * _times(name, tree)
    if codec == "int8" and leaf.dtype == torch.int8:
        return leaf * tree[name + SCALE] * _times(name, tree)
    return leaf


def _times(name: str, tree: Tree) -> Tensor | float:
    """What the change is multiplied by in a tree: the weight, for ``delta.*`` of an update that has one."""
    weight = tree.get("weight")
    if not name.startswith("delta.") or weight is None or weight.ndim or not weight > 0:
        return 1.0
    return weight


def _short(scale: Tensor) -> Tensor:
    """The nearest number with 16 bits of mantissa: its products with 127 and a weight, and back, round to itself."""
    return ((scale.view(torch.int32) + 0x40) & ~0x7F).view(torch.float32)
