"""What one client's update must look like, and what is wrong with one that does not.

What a client sends is a claim. An algorithm says in :class:`Expected` which tensors it wants, in which shapes, and
between which values, and the server rejects anything else before it counts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Size, Tensor

from fedvpa.algorithms.server.rejections import NOT_FINITE, OUT_OF_BOUNDS
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree

Shape = tuple[int, ...] | Size

Released = Literal["noised", "counted", "kept"]
"""What differential privacy makes of a statistic; see :class:`Bounds`."""

SLACK = 1e-4
"""By how much of a bound a statistic may exceed it: sums over many clients are rounded, and so are int8 and fp16."""


@dataclass(frozen=True)
class Bounds:
    """What a tensor of an update may be.

    Attributes:
        shape: Its shape.
        least: The least value that each of its elements may have, for one client.
        most: The greatest.
        per: What the bounds are counted by: ``client``, so that the sum over n clients lies within n times of them, or
            ``weight``, so that the sum lies within its weight times of them (a loss times the number of pairs).
        released: What differential privacy makes of it. ``noised``: it leaves a client within ``longest``, and counts
            once noise is added to the sum. ``counted``: every client adds 1, so the expected number of clients stands
            for it. ``kept``: it does not leave a client at all; what is not additive can be nothing else.
        longest: The norm within which it leaves a client then; None for that of a tensor that is everywhere at its
            greatest bound.
    """

    shape: Shape
    least: float
    most: float
    per: Literal["client", "weight"] = "client"
    released: Released = "noised"
    longest: float | None = None

    @property
    def norm(self) -> float:
        """The norm within which one client's may be."""
        if self.longest is not None:
            return self.longest
        return max(abs(self.least), abs(self.most)) * math.sqrt(math.prod(self.shape))


@dataclass(frozen=True)
class PrivatePart:
    """A part of the change under differential privacy.

    Attributes:
        share: a_p: how long the part may be beside the others, in units of noise.
        start: The norm that ``privacy.clip=auto`` starts from, unless ``privacy.clip_start`` is given. It must follow
            from nothing that clients hold.
        scale: What of the norm holds in this round, such as the factor of a schedule of the learning rate: changes
            shrink with it, and noise has to. It must follow from nothing that clients hold, too.
    """

    share: float = 1.0
    start: float = 0.2
    scale: float = 1.0


@dataclass(frozen=True, repr=False)
class Expected:
    """What the update of one client must be made of.

    Attributes:
        deltas: Name of each trained weight → its shape; the update has ``delta.<name>``.
        sums: Name of each statistic beside ``weight`` → its bounds.
        own: Name of each tensor that is not additive → its bounds. One called ``weight`` is cut as the weight is.
        parts: Parts of the change that differential privacy bounds each on its own
            (:mod:`fedvpa.privacy.mechanism`); empty for the whole change at once.
    """

    deltas: Mapping[str, Shape]
    sums: Mapping[str, Bounds] = field(default_factory=dict)
    own: Mapping[str, Bounds] = field(default_factory=dict)
    parts: Mapping[str, PrivatePart] = field(default_factory=dict)

    __repr__ = short_repr

    @property
    def by_weight(self) -> frozenset[str]:
        """The names of what is counted by weight: a client that counts half sends half of it."""
        statistics = {name for name, bounds in self.sums.items() if bounds.per == "weight"}
        return frozenset({"weight", *(f"delta.{name}" for name in self.deltas), *statistics})


def problem(
    sums: Mapping[str, Tensor],
    own: Mapping[str, Mapping[str, Tensor]],
    expected: Expected,
    clients: Sequence[str],
    max_weight: float,
) -> str | None:
    """What is wrong with an update, in words; None if nothing is.

    Args:
        sums: Its sums, of one client or of the clients of one node.
        own: Client id → what is not additive.
        expected: What the update of one client must be made of.
        clients: The ids of the clients that it is of.
        max_weight: The most that one client may weigh.

    Returns:
        The first of these that holds: a tensor is missing or not wanted, has another shape or type, or is not finite;
        the weight is negative, above ``max_weight`` for each client, or 0 beside something that is not; a statistic is
        out of its bounds; ``own`` is not of exactly these clients, or wrong in one of these ways.
    """
    return next(_problems(sums, own, expected, clients, max_weight), None)


def _problems(
    sums: Mapping[str, Tensor],
    own: Mapping[str, Mapping[str, Tensor]],
    expected: Expected,
    clients: Sequence[str],
    max_weight: float,
) -> Iterator[str]:
    shapes: dict[str, Shape] = {"weight": ()}
    shapes |= {f"delta.{name}": shape for name, shape in expected.deltas.items()}
    shapes |= {name: bounds.shape for name, bounds in expected.sums.items()}
    yield from _malformed(sums, shapes, "")
    weight, count = float(sums["weight"]), len(clients)
    most = count * max_weight
    if weight < 0 or weight > most * (1 + SLACK):
        yield f"its weight is {weight:g}, and it may be from 0 to {most:g}"
    if weight == 0:
        moved = [name for name, leaf in sums.items() if bool((leaf != 0).any())]
        if moved:
            yield f"its weight is 0, and {moved[0]} is not"
    for name, bounds in expected.sums.items():
        yield from _out_of_bounds(name, sums[name], bounds, weight if bounds.per == "weight" else float(count))
    wanted = set(clients) if expected.own else set()
    if own.keys() != wanted:
        yield f"it brings tensors of {len(own)} clients' own, and {len(wanted)} were asked for them"
    for tensors in own.values():
        yield from _malformed(tensors, {name: bounds.shape for name, bounds in expected.own.items()}, "own ")
        for name, bounds in expected.own.items():
            yield from _out_of_bounds(f"own {name}", tensors[name], bounds, 1.0)


def _malformed(tree: Mapping[str, Tensor], shapes: Mapping[str, Shape], kind: str) -> Iterator[str]:
    """What hinders reading the tensors at all."""
    for name in shapes:
        if name not in tree:
            yield f"{kind}{name} is missing"
    for name, leaf in tree.items():
        if name not in shapes:
            yield f"{kind}{name} is not wanted"
        elif tuple(leaf.shape) != tuple(shapes[name]):
            yield f"{kind}{name} has shape {tuple(leaf.shape)} instead of {tuple(shapes[name])}"
        elif leaf.dtype != torch.float32:
            yield f"{kind}{name} is {str(leaf.dtype).removeprefix('torch.')} instead of float32"
        elif not bool(leaf.isfinite().all()):
            yield f"{kind}{name} {NOT_FINITE}"


def _out_of_bounds(name: str, leaf: Tensor, bounds: Bounds, times: float) -> Iterator[str]:
    slack = SLACK * max(abs(bounds.least), abs(bounds.most))
    if leaf.numel() and not (
        times * (bounds.least - slack) <= float(leaf.min()) and float(leaf.max()) <= times * (bounds.most + slack)
    ):
        least, most = times * bounds.least, times * bounds.most
        yield f"{name} has {float(leaf.min()):g} to {float(leaf.max()):g}, {OUT_OF_BOUNDS} {least:g} to {most:g}"


def lighter(sums: Mapping[str, Tensor], factor: Tensor, by_weight: Collection[str]) -> Tree:
    """The sums of a client that counts ``factor`` times as much: what is counted by weight shrinks, nothing else."""
    return {name: leaf * factor if name in by_weight else leaf for name, leaf in sums.items()}
