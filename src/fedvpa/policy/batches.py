"""Which pairs are in a step of DPO, and which of them go through the model at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.seeds import Label, numpy_generator

ACTIVATIONS = 1.5e9
"""Bytes of activations that a forward pass on a CPU may leave for its gradient. Chosen by us: a few hundred tokens of a
model of a hundred million parameters, more of which at once are no faster there."""

PER_WIDTH, PER_INNER = 24, 9
"""How many numbers of the size of a layer's width, and of the width of its MLP, a token leaves; see
:func:`activation_bytes`."""

WINDOW = 8
"""Batches among which examples are sorted by length: less padding, and still random order. Chosen by us."""


class Rows(Protocol):
    """What has a number of rows, each with a width in tokens."""

    def __len__(self) -> int: ...

    def width(self) -> NDArray[np.int64]:
        """Tokens of each row."""


def batch_rows(
    examples: Rows, batch: int, step: int, seed: int, *path: Label, strata: NDArray[np.integer] | None = None
) -> list[int]:
    """The examples of one step: epochs of random order, in which rows of like length come together.

    The last, incomplete batch of an epoch is left out, unless it is the only one.

    Args:
        examples: The rows.
        batch: How many are in a step.
        step: Its number, from 0.
        seed: Names, with ``path``, the order.
        *path: Labels.
        strata: A number per row, such as its prototype: every batch has its share of each, so that no step pulls to one
            preference alone.
    """
    per_epoch = max(len(examples) // batch, 1)
    epoch, place = divmod(step, per_epoch)
    rng = numpy_generator(seed, "order", *path, epoch)
    strata = np.zeros(len(examples), np.int64) if strata is None else strata
    order = rng.permutation(len(examples))
    order = order[_spread(strata[order])][: per_epoch * batch]
    width = examples.width()
    batches: list[Sequence[int]] = []
    for start in range(0, len(order), WINDOW * batch):
        window = order[start : start + WINDOW * batch]
        window = window[np.argsort(width[window], kind="stable")]
        window = window[_spread(strata[window])]
        batches += [window[first : first + batch].tolist() for first in range(0, len(window), batch)]
    return list(batches[int(rng.permutation(len(batches))[place])])


def _spread(strata: NDArray[np.integer]) -> NDArray[np.intp]:
    """An order in which each stratum is spread evenly over the whole and keeps its own order."""
    place = np.zeros(len(strata))
    for name in np.unique(strata):
        own = np.flatnonzero(strata == name)
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.argsort(place, kind="stable")


def activation_bytes(base: Any) -> float:
    """About how many bytes of a decoder's activations one token leaves for its gradient.

    Of each layer: norms, attention, what its LoRA reads and gives, and the products of a gated MLP. The two factors are
    those at which SmolLM2-135M, in float32, leaves 3.3 MB a token; 3.2 were measured.
    """
    shape = base.config.get_text_config()
    inner = getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size
    numbers = shape.num_hidden_layers * (PER_WIDTH * shape.hidden_size + PER_INNER * int(inner))
    return float(numbers * base.dtype.itemsize)


def passes(widths: Sequence[int], rows: Sequence[int], most: int, room: float) -> list[list[int]]:
    """Consecutive rows, up to ``most`` of them, that are padded to at most ``room`` tokens together; at least one."""
    found: list[list[int]] = []
    longest = 0
    for width, row in zip(widths, rows, strict=True):
        longest = max(longest, width)
        if found and len(found[-1]) < most and (len(found[-1]) + 1) * longest <= room:
            found[-1].append(row)
        else:
            found.append([row])
            longest = width
    return found
