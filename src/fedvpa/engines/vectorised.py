"""One machine, fast: a cohort is one batched tensor program.

The algorithms' functions take any leading axes, so a cohort is stacked, padded and passed through them once: batched
matrix products forward and backward, one fused optimiser update, no process per client. On a CPU the cohort is shared
out to a few threads that each batch a part, because two half batches keep two cores busier than one batch with
parallel kernels (``benchmarks/stage1_round.py``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

from fedvpa.algorithms.base import Algorithm, Broadcast, Private, one_by_one
from fedvpa.algorithms.draws import pad_draws
from fedvpa.algorithms.robust import Part
from fedvpa.core import tree
from fedvpa.engines.federation import Federation
from fedvpa.engines.runner import CohortResult, CohortTask


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
        own = select(task.broadcast, share)
        return run_clients(task.algorithm, own, task.federation, names, task.private, task.seed)

    shares = [positions[start::workers] for start in range(workers) if positions[start::workers]]
    if len(shares) == 1:
        return part(shares[0])
    results = list(_pool(workers).map(part, shares))
    parts = {part.clients: part for result in results for part in result[0]}
    kept = {name: own for result in results for name, own in result[1].items()}
    ordered = [cohort[position] for position in positions]
    return [parts[name,] for name in ordered], {name: kept[name] for name in ordered}


def run_clients(
    algorithm: Algorithm,
    broadcast: Broadcast,
    federation: Federation,
    names: Sequence[str],
    private: Mapping[str, Private],
    seed: int,
) -> CohortResult:
    """Train clients as one batch.

    Args:
        algorithm: What each client does.
        broadcast: What the server sent to these clients, in their order.
        federation: Holds their pairs.
        names: Their ids.
        private: Their private state, as far as they have one.
        seed: The run's seed.

    Returns:
        Their updates, and their new private state.
    """
    owns = [private.get(name, Private()) for name in names]
    tensors = tree.stack(
        [algorithm.load_private(name, own, broadcast.components) for name, own in zip(names, owns, strict=True)]
    )
    if algorithm.reads_groups:
        tensors |= {"group": federation.group_one_hot(names)}
    draws = pad_draws(
        [
            algorithm.draw(seed, broadcast.round, name, federation.train_size(name), len(broadcast.components))
            for name in names
        ]
    )
    data = federation.cohort(names, "train")
    update, after = algorithm.client_update(broadcast.cohort(len(names)), data, tensors, draws)
    kept = {}
    for row, (name, own) in enumerate(zip(names, owns, strict=True)):
        mine = {key: leaf[row] for key, leaf in after.items()}
        kept[name] = algorithm.store_private(own, mine, broadcast.components)
    return [Part((name,), mine) for name, mine in zip(names, one_by_one(names, update), strict=True)], kept


def select(broadcast: Broadcast, positions: Sequence[int]) -> Broadcast:
    """The broadcast to the clients at ``positions`` of a cohort."""
    rows = torch.as_tensor(positions)
    own = {name: leaf[rows] for name, leaf in broadcast.own.items()}
    return Broadcast(broadcast.shared, own, broadcast.components, broadcast.round)


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    """Threads whose kernels run on one core each."""
    return ThreadPoolExecutor(workers, thread_name_prefix="cohort", initializer=torch.set_num_threads, initargs=(1,))


def default_workers() -> int:
    """One thread per core, four at most: chosen by us, since a share of one or two clients batches badly."""
    return max(1, min(4, os.cpu_count() or 1))
