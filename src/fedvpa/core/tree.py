"""Named tensors as one value: what is aggregated, sent and saved.

A tree is a flat mapping from a dotted name to a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Tree = dict[str, Tensor]


def combine(function: Callable[..., Tensor], *trees: Mapping[str, Tensor]) -> Tree:
    """Apply ``function`` leaf by leaf to trees with the same names."""
    first, *rest = trees
    return {name: function(leaf, *(tree[name] for tree in rest)) for name, leaf in first.items()}


def stack(trees: Sequence[Mapping[str, Tensor]]) -> Tree:
    """One tree whose leaves have a leading axis over ``trees``."""
    return {name: torch.stack([tree[name] for tree in trees]) for name in trees[0]}


def expand(tree: Mapping[str, Tensor], count: int) -> Tree:
    """The same leaves seen ``count`` times along a new leading axis, without copying."""
    return {name: leaf.expand(count, *leaf.shape) for name, leaf in tree.items()}


def size(tree: Mapping[str, Tensor]) -> int:
    """Bytes of all leaves."""
    return sum(leaf.numel() * leaf.element_size() for leaf in tree.values())


def prefixed(prefix: str, tree: Mapping[str, Tensor]) -> Tree:
    """The tree with ``prefix.`` before every name."""
    return {f"{prefix}.{name}": leaf for name, leaf in tree.items()}


def below(prefix: str, tree: Mapping[str, Tensor]) -> Tree:
    """The leaves under ``prefix.``, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): leaf for name, leaf in tree.items() if name.startswith(start)}
