"""One machine, fast: a cohort is one batched tensor program.

The algorithms' functions take any leading axes, so a cohort is stacked, padded and passed through them once: batched
matrix products forward and backward, one fused optimiser update, no process per client. On a CPU the cohort is shared
out to a few threads that each batch a part, because two half batches keep two cores busier than one batch with
parallel kernels (``benchmarks/stage1_round.py``).

Where padding to the largest client would take too much memory, clients of like size are stacked together, and a very
large one trains alone (``benchmarks/large_client.py``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from threading import Lock
from typing import cast

import torch

from fedvpa.algorithms.base import Broadcast
from fedvpa.algorithms.client.draws import pad_draws
from fedvpa.algorithms.server.robust import Part
from fedvpa.core import tree
from fedvpa.engines.federation import Federation
from fedvpa.engines.runner import CohortResult, CohortTask, alone, one_by_one

MOST_FLOATS = 1 << 24
"""Most numbers (64 MiB) that the padded features of one batch may hold, unless a single client has more. Chosen by us:
larger batches are no faster."""

_LARGE = Lock()
"""Held by the thread that trains a client of more, so that no two of them are in memory at a time."""


def run_cohort(task: CohortTask, *, workers: int = 1) -> CohortResult:
    """One round of local training in batches: with ``workers`` bound, a :class:`~fedvpa.engines.runner.CohortRunner`.

    ``workers`` is the number of threads that each batch a share of the cohort. Results depend on it in the last bits:
    another number makes batches of other sizes, and kernels then round in another order.
    """
    cohort = task.cohort
    positions = [position for position, name in enumerate(cohort) if name in task.reporting]
    if not positions:
        return [], {}

    def part(share: Sequence[int]) -> CohortResult:
        names = [cohort[position] for position in share]
        return run_clients(replace(task, broadcast=select(task.broadcast, share), cohort=names, reporting=names))

    shares = [positions[start::workers] for start in range(workers) if positions[start::workers]]
    if len(shares) == 1:
        return part(shares[0])
    results = list(_pool(workers).map(part, shares))
    parts = {part.clients: part for result in results for part in result[0]}
    kept = {name: own for result in results for name, own in result[1].items()}
    ordered = [cohort[position] for position in positions]
    return [parts[name,] for name in ordered], {name: kept[name] for name in ordered}


def run_clients(task: CohortTask) -> CohortResult:
    """Train all clients of a cohort that holds features, in as few batches as memory allows.

    Returns:
        Their updates, in the order of the cohort, and their new private state.
    """
    names, federation = task.cohort, cast(Federation, task.holder)
    sizes, dimension = [federation.size(name) for name in names], federation.dimension
    together = batches(sizes, dimension)
    parts, kept = dict[tuple[str, ...], Part](), dict[str, tree.Tree]()
    for rows in together:
        some = [names[row] for row in rows]
        with _LARGE if _floats(len(rows), sizes[rows[-1]], dimension) > MOST_FLOATS else nullcontext():
            mine, own = _run_batch(replace(task, broadcast=select(task.broadcast, rows), cohort=some, reporting=some))
        parts |= {part.clients: part for part in mine}
        kept |= own
    return [parts[name,] for name in names], {name: kept[name] for name in names}


def batches(sizes: Sequence[int], dimension: int) -> list[list[int]]:
    """Which clients are stacked together: all, or those of like size where their padded features would be too many.

    Args:
        sizes: Pairs of each client.
        dimension: Of a feature.

    Returns:
        Rows of ``sizes``, from the smallest client to the largest if there are several batches. A batch is of one
        client, or holds at most ``MOST_FLOATS`` numbers.
    """
    if _floats(len(sizes), max(sizes), dimension) <= MOST_FLOATS:
        return [list(range(len(sizes)))]
    found: list[list[int]] = []
    for row in sorted(range(len(sizes)), key=lambda row: sizes[row]):
        if found and _floats(len(found[-1]) + 1, sizes[row], dimension) <= MOST_FLOATS:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def _floats(clients: int, longest: int, dimension: int) -> int:
    """Numbers in the padded features of a batch."""
    return 2 * dimension * clients * max(longest, 1)


def _run_batch(task: CohortTask) -> CohortResult:
    """Train all clients of a cohort as one batch."""
    algorithm, broadcast, names = task.algorithm, task.broadcast, task.cohort
    federation = cast(Federation, task.holder)
    owns = [task.private.get(name, {}) for name in names]
    received = [broadcast.client(row) for row in range(len(names))]
    private = tree.stack([algorithm.load_private(*both) for both in zip(owns, received, strict=True)])
    if algorithm.reads_groups:
        private |= {"group": federation.group_one_hot(names)}
    draws = pad_draws([algorithm.draw(task.seed, broadcast, name, federation.size(name)) for name in names])
    data = federation.cohort(names, "train")
    update, after = algorithm.client_update(broadcast.cohort(len(names)), data, private, draws)
    parts, kept = [], {}
    for row, (name, mine) in enumerate(zip(names, one_by_one(names, update), strict=True)):
        parts.append(Part((name,), alone(name, task.sent(mine, received[row], name))))
        tensors = {key: leaf[row].clone() for key, leaf in after.items()}  # a view would keep the whole batch's memory
        kept[name] = algorithm.store_private(owns[row], tensors, received[row])
    return parts, kept


def select(broadcast: Broadcast, positions: Sequence[int]) -> Broadcast:
    """The broadcast to the clients at ``positions`` of a cohort."""
    rows = torch.as_tensor(positions, dtype=torch.long)
    return replace(broadcast, own={name: leaf[rows] for name, leaf in broadcast.own.items()})


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads whose kernels run on one core each."""
    return ThreadPoolExecutor(workers, thread_name_prefix="cohort", initializer=torch.set_num_threads, initargs=(1,))


def default_workers() -> int:
    """One thread per core, four at most: chosen by us, since a share of one or two clients batches badly."""
    return max(1, min(4, os.cpu_count() or 1))
