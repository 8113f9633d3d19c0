"""The readable reference: one client after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fedvpa.algorithms.base import Algorithm, Broadcast, ClientUpdate, CohortUpdate, Private
from fedvpa.algorithms.robust import Part
from fedvpa.engines.federation import Federation


def run_cohort(
    algorithm: Algorithm,
    broadcast: Broadcast,
    federation: Federation,
    cohort: Sequence[str],
    reporting: Sequence[str],
    private: Mapping[str, Private],
    seed: int,
) -> tuple[list[Part], dict[str, Private]]:
    """One round of local training.

    Args:
        algorithm: What each client does.
        broadcast: What the server sends to the cohort.
        federation: Who holds what.
        cohort: The clients asked.
        reporting: Those of them that answer; the others dropped out and nothing of theirs changes.
        private: The private state of every client that has one.
        seed: The run's seed.

    Returns:
        The updates, and the new private state of the clients that reported.
    """
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
