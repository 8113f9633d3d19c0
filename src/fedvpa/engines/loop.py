"""The readable reference: one client after the other."""

from __future__ import annotations

import torch

from fedvpa.algorithms.base import ClientUpdate, CohortUpdate, Private
from fedvpa.algorithms.robust import Part
from fedvpa.engines.runner import CohortResult, CohortTask


def run_cohort(task: CohortTask) -> CohortResult:
    """One round of local training, client by client: a :class:`~fedvpa.engines.runner.CohortRunner`."""
    algorithm, broadcast, federation = task.algorithm, task.broadcast, task.federation
    parts, kept = [], {}
    for position, name in enumerate(task.cohort):
        if name not in task.reporting:
            continue
        data = federation.pairs(name, "train")
        own = task.private.get(name, Private())
        tensors = algorithm.load_private(name, own, broadcast.components)
        if algorithm.reads_groups:
            tensors |= {"group": federation.group_one_hot([name])[0]}
        pairs, components = federation.train_size(name), len(broadcast.components)
        draws = algorithm.draw(task.seed, broadcast.round, name, pairs, components)
        update, after = algorithm.client_update(broadcast.client(position), data, tensors, draws)
        parts.append(_alone(name, update))
        kept[name] = algorithm.store_private(own, after, broadcast.components)
    return parts, kept


def _alone(name: str, update: ClientUpdate) -> Part:
    posteriors = {} if update.posterior is None else {name: update.posterior}
    return Part((name,), CohortUpdate({key: torch.as_tensor(leaf) for key, leaf in update.sums.items()}, posteriors))
