"""Sums of tensors as sums of integers that wrap around, so that random masks can hide each summand.

A value x of a tensor becomes the integer nearest to x / step, modulo 2^32 or 2^64. The step follows from the largest
value that one client may have and from the number of clients: the sum over all of them cannot wrap around, so it is
exact, and each summand is off by half a step at most.

Changes of weights (``delta.*``) take 32 bits, as many as a float32. Statistics take 64: their bounds keep absurd values
out and are far wider than the values, and there are few of them. Chosen by us.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree

NARROW_BITS, WIDE_BITS = 32, 64

SLACK = 1e-3
"""By how much of its largest value a tensor may exceed it: sums of float32 are rounded. Chosen by us."""


@dataclass(frozen=True, repr=False)
class Words:
    """A vector of integers that wrap around.

    Attributes:
        narrow: Changes of weights, modulo 2^32.
        wide: Statistics, modulo 2^64.
    """

    narrow: NDArray[np.uint32]
    wide: NDArray[np.uint64]

    __repr__ = short_repr

    def __add__(self, other: Words) -> Words:
        return Words(self.narrow + other.narrow, self.wide + other.wide)

    def __sub__(self, other: Words) -> Words:
        return Words(self.narrow - other.narrow, self.wide - other.wide)


class Steps(Protocol):
    """How integers become named tensors again."""

    @property
    def narrow(self) -> tuple[str, ...]:
        """The tensors of 32 bits, in their order."""

    @property
    def wide(self) -> tuple[str, ...]:
        """The tensors of 64 bits, in their order."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name → shape."""

    def size(self, names: tuple[str, ...]) -> int:
        """How many values these tensors have together."""

    def step(self, name: str) -> float:
        """What 1 of the integers stands for."""


@dataclass(frozen=True, repr=False)
class Layout:
    """How named tensors become integers: the same on the server and on all nodes of a round.

    Attributes:
        largest: Name → the largest absolute value of an element of one client's tensor, above 0 and finite.
        shapes: Name → shape.
        clients: How many clients there may be in the sum.
    """

    largest: Mapping[str, float]
    shapes: Mapping[str, tuple[int, ...]]
    clients: int

    __repr__ = short_repr

    @cached_property
    def narrow(self) -> tuple[str, ...]:
        """The tensors of 32 bits, in their order."""
        return tuple(sorted(name for name in self.largest if _is_narrow(name)))

    @cached_property
    def wide(self) -> tuple[str, ...]:
        """The tensors of 64 bits, in their order."""
        return tuple(sorted(name for name in self.largest if not _is_narrow(name)))

    def size(self, names: tuple[str, ...]) -> int:
        """How many values these tensors have together."""
        return sum(prod(self.shapes[name]) for name in names)

    def step(self, name: str) -> float:
        """The quantisation step: clients · largest / (2^(bits − 1) − clients), with room for roundings.

        Each of at most ``clients`` summands is rounded by half a step, so the sum stays below half of the modulus.
        """
        half = 2 ** ((NARROW_BITS if _is_narrow(name) else WIDE_BITS) - 1)
        return self.clients * self.largest[name] * (1 + 2 * SLACK) / (half - self.clients)


def quantised(layout: Layout, sums: Mapping[str, Tensor], clients: int) -> Words:
    """The sum over some clients as integers.

    Args:
        layout: How.
        sums: Their sums.
        clients: How many clients they are of.

    Raises:
        DataError: If a tensor is missing, not wanted, of another shape, not finite, or larger than these clients may
            send. Such a sum would spoil that of all nodes, and nobody could see whose it was.
    """
    if sums.keys() != layout.largest.keys():
        odd = sorted(sums.keys() ^ layout.largest.keys())
        raise DataError(f"the update and what the server asks for differ in {', '.join(odd)}")
    narrow = [_integers(layout, name, sums[name], clients) for name in layout.narrow]
    wide = [_integers(layout, name, sums[name], clients) for name in layout.wide]
    return Words(_joined(narrow).astype(np.int32).view(np.uint32), _joined(wide).view(np.uint64))


def restored(layout: Steps, total: Words) -> Tree:
    """The sum over all nodes, from the sum of their integers."""
    found: Tree = {}
    signed = ((layout.narrow, total.narrow.view(np.int32)), (layout.wide, total.wide.view(np.int64)))
    for names, words in signed:
        start = 0
        for name in names:
            shape = layout.shapes[name]
            values = words[start : start + prod(shape)].astype(np.float64) * layout.step(name)
            found[name] = torch.from_numpy(values).reshape(shape).to(torch.float32)
            start += prod(shape)
    return found


def _is_narrow(name: str) -> bool:
    return name.startswith("delta.")


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _integers(layout: Layout, name: str, leaf: Tensor, clients: int) -> NDArray[np.int64]:
    if tuple(leaf.shape) != tuple(layout.shapes[name]):
        raise DataError(f"{name} has shape {tuple(leaf.shape)}, and the server asks for {tuple(layout.shapes[name])}")
    values, most = leaf.detach().to(torch.float64).cpu().numpy().reshape(-1), clients * layout.largest[name]
    if not np.isfinite(values).all():
        raise DataError(f"{name} is not finite, so the update is not sent")
    if values.size and float(np.abs(values).max()) > most * (1 + SLACK):
        raise DataError(f"{name} has {np.abs(values).max():g}, and {most:g} is the most, so the update is not sent")
    return np.rint(values / layout.step(name)).astype(np.int64)
