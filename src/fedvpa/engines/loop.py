"""The readable reference: one client after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fedvpa.algorithms.base import Algorithm, Broadcast, ClientUpdate, CohortUpdate, Private
from fedvpa.algorithms.robust import Part
from fedvpa.engines.federation import Federation
from fedvpa.engines.runner import CohortResult


def run_cohort(
    algorithm: Algorithm,
    broadcast: Broadcast,
    federation: Federation,
    cohort: Sequence[str],
    reporting: Sequence[str],
    private: Mapping[str, Private],
    seed: int,
) -> CohortResult:
    """One round of local training, client by client: a :class:`~fedvpa.engines.runner.CohortRunner`."""
    parts, kept = [], {}
    for position, name in enumerate(cohort):
        if name not in reporting:
            continue
        data = federation.pairs(name, "train")
        own = private.get(name, Private())
        tensors = algorithm.load_private(name, own, broadcast.components)
        if algorithm.reads_groups:
            tensors |= {"group": federation.group_one_hot([name])[0]}
        draws = algorithm.draw(seed, broadcast.round, name, federation.train_size(name), len(broadcast.components))
        update, after = algorithm.client_update(broadcast.client(position), data, tensors, draws)
        parts.append(_alone(name, update))
        kept[name] = algorithm.store_private(own, after, broadcast.components)
    return parts, kept


def _alone(name: str, update: ClientUpdate) -> Part:
    posteriors = {} if update.posterior is None else {name: update.posterior}
    return Part((name,), CohortUpdate({key: torch.as_tensor(leaf) for key, leaf in update.sums.items()}, posteriors))
