"""Which users and pairs of a table no client holds, because the partition's settings ask for it; for the report."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedvpa.data.deal import factorise
from fedvpa.data.partition import Partition
from fedvpa.data.partition_config import PartitionConfig
from fedvpa.data.schema import PairTable
from fedvpa.data.shortage import has_enough, part_counts
from fedvpa.data.splits import hold_out

SMALL = "too few pairs, once what tests is held out (partition.drop_small)"
MORE_USERS = "more users than partition.clients asks for"
MORE_PAIRS = "more training pairs than partition.pairs_per_client allows"
MORE_CONTEXT = "more pairs of an unseen client than partition.unseen_pairs allows"
NO_SHARE = "their group has no share in partition.shares"
LEFT_OVER = "left over by partition.shares or partition.pairs_per_client"


def note_unused(table: PairTable, partition: Partition, config: PartitionConfig) -> PairTable:
    """The table, whose report says which users and pairs no client holds, and why.

    It is no error under ``data.strict``: the configuration asks for it.

    Args:
        table: The pairs.
        partition: Who holds them.
        config: What the partition was made with.
    """
    used = np.zeros(len(table), dtype=bool)
    for client in partition.clients:
        for rows in (client.train, client.validation, client.test):
            used[rows] = True
    unused = np.flatnonzero(~used).tolist()
    if not unused:
        return table
    if config.kind == "natural":
        return _of_users(table, unused, partition, config)
    if config.shares:
        unshared = [row for row in unused if table.pairs[row].group not in config.shares]
        table = table.noting(unshared, NO_SHARE, asked=True)
        left = sorted({*unused} - {*unshared})
        return table.noting(left, LEFT_OVER, asked=True)
    context = "" if config.unseen_pairs is None else f", or {MORE_CONTEXT}"
    return table.noting(unused, f"{MORE_PAIRS}{context}", asked=True)


def _of_users(table: PairTable, unused: list[int], partition: Partition, config: PartitionConfig) -> PairTable:
    """The same where every user is a client."""
    small = _small_users(table, partition, config) if config.drop_small else set()
    user_of = [pair.user_id or "" for pair in table.pairs]
    seen = {client.client_id for client in partition.seen}

    def rows(belongs: Callable[[str], bool]) -> list[int]:
        return [row for row in unused if belongs(user_of[row])]

    for reason, without in (
        (SMALL, rows(lambda user: user in small)),
        (MORE_USERS, rows(lambda user: user not in partition.by_id and user not in small)),
    ):
        users = len({user_of[row] for row in without})
        table = table.noting(without, reason, unit="user", count=users, asked=True)
        table = table.noting(without, f"their user is left out: {reason}", asked=True)
    table = table.noting(rows(lambda user: user in seen), MORE_PAIRS, asked=True)
    return table.noting(rows(lambda user: user in partition.by_id and user not in seen), MORE_CONTEXT, asked=True)


def _small_users(table: PairTable, partition: Partition, config: PartitionConfig) -> set[str]:
    """Users with too few pairs, as the deal counted them."""
    assert partition.rule is not None
    names, codes = factorise([pair.user_id for pair in table.pairs])
    counts = part_counts(codes, hold_out(table.pairs, partition.rule), len(names))
    return {name for name, enough in zip(names, has_enough(counts, config), strict=True) if not enough}
