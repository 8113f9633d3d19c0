"""What one client's update must look like, and what is wrong with one that does not.

What a client sends is a claim. An algorithm says in :class:`Expected` which tensors it wants, in which shapes, and
between which values, and the server rejects anything else before it counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Size

from fedvpa.core.short_repr import short_repr

Shape = tuple[int, ...] | Size


@dataclass(frozen=True)
class Bounds:
    """What a tensor of an update may be.

    Attributes:
        shape: Its shape.
        least: The least value that each of its elements may have, for one client.
        most: The greatest.
        per: What the bounds are counted by: ``client``, so that the sum over n clients lies within n times of them, or
            ``weight``, so that the sum lies within its weight times of them (a loss times the number of pairs).
    """

    shape: Shape
    least: float
    most: float
    per: Literal["client", "weight"] = "client"


@dataclass(frozen=True, repr=False)
class Expected:
    """What the update of one client must be made of.

    Attributes:
        deltas: Name of each trained weight → its shape; the update has ``delta.<name>``.
        sums: Name of each statistic beside ``weight`` → its bounds.
        own: Name of each tensor that is not additive → its bounds.
    """

    deltas: Mapping[str, Shape]
    sums: Mapping[str, Bounds] = field(default_factory=dict)
    own: Mapping[str, Bounds] = field(default_factory=dict)

    __repr__ = short_repr
