"""What a run was made of, as hashes: whatever goes on from it has to find the same again."""

from __future__ import annotations

import hashlib

from fedvpa.data.partition import Partition
from fedvpa.data.schema import PairTable
from fedvpa.features.store import data_hash


def data_fingerprint(table: PairTable, partition: Partition) -> str:
    """A hash of every text and of who holds what, in which part."""
    total = hashlib.sha256(data_hash(table.pairs).encode())
    for client in partition.clients:
        rows = [part.tolist() for part in (client.train, client.validation, client.test)]
        total.update(repr((client.client_id, client.group, client.seen, rows)).encode())
    return total.hexdigest()
