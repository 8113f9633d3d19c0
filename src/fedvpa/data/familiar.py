"""Test pairs whose prompt is in training: set aside so that users new and known meet prompts new and known.

What is held out over all clients (:mod:`fedvpa.data.splits`) tests on prompts that nobody trains on. To test on the
other kind too, some of a client's further pairs are set aside: of each unit (prompt, or pair) either all of the
client's pairs or none, by the hash of client and unit. A unit is set aside only where the training pairs of *another*
seen client keep it. So the client itself trains on no pair of it, and others do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fedvpa.core.seeds import entropy
from fedvpa.data.partition import ClientRows, Partition
from fedvpa.data.schema import PairTable
from fedvpa.data.splits import Ints, unit_names


def set_aside(table: PairTable, partition: Partition, share: float, seed: int) -> tuple[Partition, dict[str, Ints]]:
    """Take pairs out of training that test on units which others train on.

    Args:
        table: The pairs.
        partition: The clients, with a rule of what is held out.
        share: Of each client's units, those to set aside, as far as others keep them. A client of which nothing would
            be left to train on keeps all.
        seed: Names the hash.

    Returns:
        The clients without these pairs in training, and client id → rows set aside.
    """
    rule = partition.rule
    names = unit_names(table.pairs, "prompt" if rule is None else rule.unit)
    drawn = {client.client_id: _drawn(client, names, share, seed) for client in partition.clients}
    holders = Counter(
        name for client in partition.seen for name in {names[row] for row in client.train[~drawn[client.client_id]]}
    )
    clients, aside = [], {}
    for client in partition.clients:
        # A drawn unit is in none of the client's own pairs that stay, so all its holders are others.
        out = drawn[client.client_id] & np.array([holders[names[row]] > 0 for row in client.train], dtype=bool)
        aside[client.client_id] = client.train[out]
        clients.append(replace(client, train=client.train[~out]))
    return replace(partition, clients=tuple(clients)), aside


def never_aside(table: PairTable, partition: Partition, share: float, seed: int) -> Partition:
    """The clients without any training pair that :func:`set_aside` may take, whatever other pairs there are.

    For what is chosen by training pairs before it is known which of them can be used.
    """
    rule = partition.rule
    names = unit_names(table.pairs, "prompt" if rule is None else rule.unit)
    kept = [replace(client, train=client.train[~_low(client, names, share, seed)]) for client in partition.clients]
    return replace(partition, clients=tuple(kept))


def by_familiarity(
    table: PairTable, partition: Partition, aside: Mapping[str, Ints]
) -> tuple[dict[str, Ints], dict[str, Ints]]:
    """Client id → test rows whose unit some seen client trains on, and those whose unit nobody trains on.

    Args:
        table: The pairs.
        partition: The clients, after :func:`set_aside`.
        aside: The rows set aside, which test beside those that are held out.
    """
    rule = partition.rule
    names = unit_names(table.pairs, "prompt" if rule is None else rule.unit)
    trained = {names[row] for client in partition.seen for row in client.train}
    known, unknown = {}, {}
    for client in partition.clients:
        rows = np.concatenate([client.test, aside.get(client.client_id, client.test[:0])])
        familiar = np.array([names[row] in trained for row in rows], dtype=bool)
        known[client.client_id], unknown[client.client_id] = np.sort(rows[familiar]), np.sort(rows[~familiar])
    return known, unknown


def _drawn(client: ClientRows, names: list[str], share: float, seed: int) -> np.ndarray:
    """Which of a client's training rows may be set aside; none where that would be all."""
    drawn = _low(client, names, share, seed)
    return drawn if not drawn.all() else np.zeros_like(drawn)


def _low(client: ClientRows, names: list[str], share: float, seed: int) -> np.ndarray:
    """The training rows of a client whose unit has a hash below ``share`` there."""
    places = {
        name: (entropy(seed, "set aside", client.client_id, name) >> 75) / 2.0**53
        for name in {names[row] for row in client.train}
    }
    return np.array([places[names[row]] < share for row in client.train], dtype=bool)
