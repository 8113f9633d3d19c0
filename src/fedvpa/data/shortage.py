"""Clients that hold too few pairs once what tests is held out: who they are, and what to do about them.

What tests is held out over all clients, by the hash of a prompt or a pair. So how many of a user's pairs are left to
train on depends on the user's prompts, not on the number of its pairs: 16 pairs of 3 prompts may all test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.errors import DataError
from fedvpa.data.partition_config import PartitionConfig
from fedvpa.data.schema import PairTable
from fedvpa.data.splits import TEST, TRAIN, UNUSED, Ints, SplitRule, hold_out


def part_counts(owner: Ints, parts: Ints, clients: int) -> Ints:
    """Pairs of each client and part.

    Args:
        owner: Client number of each pair, [pairs]; −1 of a pair that nobody holds.
        parts: Part of each pair, [pairs].
        clients: How many clients there are.

    Returns:
        [clients, ``UNUSED`` + 1].
    """
    held = owner >= 0
    counts = np.zeros((clients, UNUSED + 1), dtype=np.int64)
    np.add.at(counts, (owner[held], parts[held]), 1)
    return counts


def has_enough(counts: Ints, config: PartitionConfig) -> NDArray[np.bool_]:
    """Which clients have ``min_train`` training pairs and ``min_test`` test pairs, of :func:`part_counts`."""
    enough: NDArray[np.bool_] = (counts[:, TRAIN] >= config.min_train) & (counts[:, TEST] >= config.min_test)
    return enough


@dataclass(frozen=True, eq=False)
class Holding:
    """Who holds what, as far as a message about too few pairs needs it.

    Attributes:
        table: The pairs.
        owner: Client number of each pair, [pairs]; −1 of a pair that nobody holds.
        counts: Of :func:`part_counts`.
        config: The least numbers, and the kind of partition.
        seed: Names the draw of what tests.
    """

    table: PairTable
    owner: Ints
    counts: Ints
    config: PartitionConfig
    seed: int

    def check_clients(self, ids: Sequence[str]) -> None:
        """Every client must have its least number of training and test pairs.

        Args:
            ids: Names of the clients.

        Raises:
            DataError: Naming the first client that has fewer, and what helps.
        """
        enough, config = has_enough(self.counts, self.config), self.config
        if enough.all():
            return
        client = int(np.argmin(enough))
        train, test, total = self.counts[client, TRAIN], self.counts[client, TEST], self.counts[client].sum()
        raise DataError(
            f"client {ids[client]!r} holds too few pairs: {total} in all, {train} train and {test} test, and it needs "
            f"at least {config.min_train} and {config.min_test} ({int((~enough).sum())} of {len(enough)} clients fall "
            f"short). What tests is held out over all clients, by {self._unit}.",
            fix=_sentence(self._remedies(enough)),
        )

    def check_users(self) -> None:
        """There must be as many users with enough pairs as clients are asked for.

        Raises:
            DataError: Saying how many there are, and what helps.
        """
        config, enough = self.config, has_enough(self.counts, self.config) | (not self.config.drop_small)
        stay, seen = int(enough.sum()), config.clients or 1
        if config.unseen + seen <= stay:
            return
        small = len(enough) - stay
        least = f"{config.min_train} train or {config.min_test} test"
        note = f" ({small} users were too small: fewer than {least} pairs, by {self._unit})" if small else ""
        fewer = ["lower partition.clients or partition.unseen"] if stay > 1 else []
        raise DataError(
            f"{stay} users are fewer than {seen} seen and {config.unseen} unseen clients need{note}.",
            fix=_sentence([*fewer, *(self._other_settings(enough) if small else [])]),
        )

    @property
    def _unit(self) -> str:
        """What is held out as a whole."""
        said = all(pair.split is not None for pair in self.table.pairs)
        return self.config.unit or ("split" if said else "prompt")

    def _remedies(self, enough: NDArray[np.bool_]) -> list[str]:
        if self.config.kind != "natural":
            return [*self._lower(enough), "lower partition.clients"]
        stay = int(enough.sum())
        leave = [f"leave such users out with partition.drop_small=true ({stay} of {len(enough)} stay)"] if stay else []
        return [*leave, *self._other_settings(enough)]

    def _other_settings(self, enough: NDArray[np.bool_]) -> list[str]:
        """Settings under which more users have enough pairs."""
        fixes, pairs = self._lower(enough), self.table.pairs
        if self._unit == "prompt" and all(pair.split is None for pair in pairs):
            rule = SplitRule("pair", self.seed, self.config.test_fraction, self.config.validation_fraction)
            by_pair = part_counts(self.owner, hold_out(pairs, rule), len(enough))
            more = int(has_enough(by_pair, self.config).sum())
            if more > enough.sum():
                fixes.append(
                    f"if users judge the same few prompts, hold out by pair: partition.unit=pair ({more} stay)"
                )
        return fixes

    def _lower(self, enough: NDArray[np.bool_]) -> list[str]:
        """The least numbers to lower, where that helps a client: one pair trains, and none need test."""
        small, config = self.counts[~enough], self.config
        named = [
            key
            for key, have, least, floor in (
                ("min_train", small[:, TRAIN], config.min_train, 1),
                ("min_test", small[:, TEST], config.min_test, 0),
            )
            if ((have < least) & (have >= floor)).any()
        ]
        return [f"lower {' or '.join(f'partition.{key}' for key in named)}"] if named else []


def _sentence(fixes: Sequence[str]) -> str:
    text = ", or ".join(fixes or ["give more pairs of each user"])
    return f"{text[0].upper()}{text[1:]}."
