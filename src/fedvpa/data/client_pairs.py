"""A table of pairs and who holds which of them: the text that clients hold."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from fedvpa.data.partition import Partition
from fedvpa.data.schema import Pair, PairTable, Text

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class ClientPairs:
    """The pairs of all clients.

    Attributes:
        table: The pairs.
        partition: The rows of each client.
    """

    table: PairTable
    partition: Partition

    def of_seen(self, split: Split) -> dict[str, list[Pair]]:
        """Client id → its pairs of a split, of the clients that train."""
        return {
            client.client_id: [self.table.pairs[int(row)] for row in getattr(client, split)]
            for client in self.partition.seen
        }

    def training_prompts(self) -> list[Text]:
        """The distinct prompts of the training pairs of seen clients, without those of any client's test pairs."""
        held = {self.table.pairs[int(row)].prompt for client in self.partition.clients for row in client.test}
        return list(dict.fromkeys(pair.prompt for pair in self._training() if pair.prompt not in held))

    def test_prompts(self) -> list[Text]:
        """The distinct prompts of all clients' test pairs."""
        rows = sorted({int(row) for client in self.partition.clients for row in client.test})
        return list(dict.fromkeys(self.table.pairs[row].prompt for row in rows))

    def training_pairs(self, prompts: Collection[Text]) -> list[Pair]:
        """The training pairs of seen clients that have one of the prompts."""
        wanted = set(prompts)
        return [pair for pair in self._training() if pair.prompt in wanted]

    def _training(self) -> list[Pair]:
        rows = sorted({int(row) for client in self.partition.seen for row in client.train})
        return [self.table.pairs[row] for row in rows]
