"""A table of pairs and who holds which of them: the text that clients hold."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from fedvpa.data.partition import Partition
from fedvpa.data.schema import Pair, PairTable, Text
from fedvpa.data.splits import TEST, prompt_name

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

    @cached_property
    def held_out_prompts(self) -> frozenset[str]:
        """The names of the prompts that no policy trains on, so that policies can be judged on them.

        A prompt of test pairs is one of them if nobody's training pairs have it, or if its own hash says so. The second
        matters where the first stage holds out pairs, or what the data say: there everybody may train on every prompt.
        """
        clients, rule = self.partition.clients, self.partition.rule
        trained = {self._name(row) for one in clients for part in (one.train, one.validation) for row in part}
        tested = {self._name(row) for one in clients for row in one.test}
        if rule is None:
            return frozenset(tested)
        return frozenset(name for name in tested | trained if name not in trained or rule.part(name) == TEST)

    def training_prompts(self) -> list[Text]:
        """The distinct prompts of the training pairs of seen clients, without those that are held out."""
        return list(dict.fromkeys(pair.prompt for pair in self._training() if not self._is_held(pair)))

    def test_prompts(self) -> list[Text]:
        """The distinct prompts that are held out, whoever's pairs have them."""
        clients = self.partition.clients
        rows = sorted({int(row) for one in clients for part in (one.train, one.validation, one.test) for row in part})
        everything = (self.table.pairs[row] for row in rows)
        return list(dict.fromkeys(pair.prompt for pair in everything if self._is_held(pair)))

    def training_pairs(self, prompts: Collection[Text]) -> list[Pair]:
        """The training pairs of seen clients that have one of the prompts."""
        wanted = set(prompts)
        return [pair for pair in self._training() if pair.prompt in wanted]

    def policy_training(self) -> dict[str, list[Pair]]:
        """Client id → the training pairs on which it may train a policy: those whose prompt is not held out."""
        pairs = self.of_seen("train")
        return {name: [pair for pair in own if not self._is_held(pair)] for name, own in pairs.items()}

    def _is_held(self, pair: Pair) -> bool:
        return prompt_name(pair.prompt) in self.held_out_prompts

    def _name(self, row: np.int64) -> str:
        return prompt_name(self.table.pairs[int(row)].prompt)

    def _training(self) -> list[Pair]:
        rows = sorted({int(row) for client in self.partition.seen for row in client.train})
        return [self.table.pairs[row] for row in rows]
