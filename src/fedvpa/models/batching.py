"""Which rows a language model reads together: rows of like length, longest first, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int


def processing_order(lengths: Int[np.ndarray, " n"], shared: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Rows ordered by whether they share their prompt, then by falling length, then by row number.

    Neighbours have about the same length, so batches hold little padding; the longest comes first, so that a batch that
    does not fit into memory fails at once and not after an hour.
    """
    return np.lexsort((np.arange(len(lengths)), -lengths, ~shared))


def batches_for(
    processes: int, lengths: Int[np.ndarray, " n"], shared: Bool[np.ndarray, " n"], tokens_per_batch: int
) -> list[Int[np.ndarray, " batch"]]:
    """:func:`batches` of work that several processes share out: the same, and smaller ones where some would have none.

    Args:
        processes: How many there are.
        lengths: See :func:`batches`.
        shared: See :func:`batches`.
        tokens_per_batch: See :func:`batches`.
    """
    found = list(batches(lengths, shared, tokens_per_batch))
    if len(found) >= processes:
        return found
    return list(batches(lengths, shared, -(-int(lengths.sum()) // processes)))


def batches(
    lengths: Int[np.ndarray, " n"], shared: Bool[np.ndarray, " n"], tokens_per_batch: int
) -> Iterator[Int[np.ndarray, " batch"]]:
    """Cut the processing order into batches.

    Args:
        lengths: Padded tokens that a row occupies.
        shared: Rows that share their prompt; a batch never mixes them with others.
        tokens_per_batch: Upper bound of rows × longest row; a longer row is a batch of its own.

    Yields:
        Row numbers.
    """
    order, start = processing_order(lengths, shared), 0
    while start < len(order):
        first = order[start]
        stop = min(len(order), start + max(1, tokens_per_batch // max(1, int(lengths[first]))))
        alike = shared[order[start:stop]] == shared[first]
        stop = start + (len(alike) if alike.all() else int(np.argmin(alike)))
        yield order[start:stop]
        start = stop
