"""The partition of a table into clients, each with train, validation and test pairs.

A partition is a function of (table, configuration, seed). Every pair goes to at most one client and one part. What
stays the same when something changes:

- What tests and validates is held out first, over all clients; see :mod:`fedvpa.data.splits`. It depends on the seed
  and on the text of a prompt (or pair) alone, whoever holds it and whatever else is in the table.
- ``natural``: a client is a user. Another user's arrival or departure changes nobody's split. Which users are held out
  as unseen follows from their hashed ids: an arrival displaces at most one of them per group.
- ``group``, ``dirichlet`` and ``topics``: pairs are shuffled by their hashed ids, so the order of the table does not
  matter; a different number of clients deals all pairs anew. Pairs named after their row number are dealt by that
  number. Test pairs are dealt apart from training pairs, so that all clients have their share of both.
- ``pairs_per_client`` cuts after deal and split: raising it adds train pairs and moves none. (Only where the cut falls
  among pairs of one prompt does the order of the table decide.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.seeds import entropy
from fedvpa.data.deal import NOBODY, Deal, deal_dirichlet, deal_groups, deal_topics, deal_users, factorise
from fedvpa.data.partition_config import Kind, PartitionConfig
from fedvpa.data.schema import Pair, PairTable, Text
from fedvpa.data.shortage import Holding, part_counts
from fedvpa.data.splits import (
    TEST,
    TRAIN,
    UNUSED,
    VALIDATION,
    HeldOut,
    Ints,
    SplitRule,
    cap_training,
    check_held_out,
    hold_out,
    make_rule,
    prompt_name,
)

__all__ = ["ClientRows", "Partition", "PartitionConfig", "partition"]

_DEALERS: dict[Kind, Callable[[PairTable, PartitionConfig, int, Ints], Deal]] = {
    "group": deal_groups,
    "dirichlet": deal_dirichlet,
    "topics": deal_topics,
    "natural": deal_users,
}


@dataclass(frozen=True, slots=True, eq=False)
class ClientRows:
    """The rows of one client, as ascending row numbers of the table.

    Attributes:
        client_id: The client's name; the user's for a natural partition.
        group: The group that all its pairs share; None where they share none. For evaluation, never for training.
        seen: Whether the client trains. An unseen one only ever gives context pairs.
        train: Rows that train; of an unseen client, those that may serve as context.
        validation: Rows on which rounds and hyper-parameters are chosen.
        test: Rows on which accuracy is reported.
    """

    client_id: str
    group: str | None
    seen: bool
    train: Ints
    validation: Ints
    test: Ints


@dataclass(frozen=True)
class Partition:
    """All clients, seen ones first.

    Attributes:
        clients: Who holds what.
        rule: What is held out; None of clients that were not made by :func:`partition`.
    """

    clients: tuple[ClientRows, ...]
    rule: SplitRule | None = None

    def __len__(self) -> int:
        return len(self.clients)

    def without(self, rows: Sequence[int]) -> Partition:
        """The same clients, none of which holds any of these rows; all of them stay, even without a pair."""
        if not len(rows):
            return self
        taken = np.asarray(rows)

        def left(client: ClientRows) -> ClientRows:
            parts = {name: getattr(client, name) for name in ("train", "validation", "test")}
            return replace(client, **{name: part[~np.isin(part, taken)] for name, part in parts.items()})

        return replace(self, clients=tuple(map(left, self.clients)))

    @cached_property
    def seen(self) -> tuple[ClientRows, ...]:
        """The clients that train."""
        return tuple(client for client in self.clients if client.seen)

    @cached_property
    def unseen(self) -> tuple[ClientRows, ...]:
        """The clients that never train."""
        return tuple(client for client in self.clients if not client.seen)

    @cached_property
    def by_id(self) -> Mapping[str, ClientRows]:
        """Client id → client."""
        return {client.client_id: client for client in self.clients}

    def held_out(self, table: PairTable, *, check: bool = True) -> HeldOut:
        """What is held out of clients that :func:`partition` made.

        Args:
            table: Their pairs.
            check: Whether it is an error if nothing is left to train, to test or, if asked for, to validate on.

        Raises:
            DataError: If so.
        """
        assert self.rule is not None
        pairs, parts = self._parts(table)
        found = HeldOut.of(pairs, parts, self.rule)
        if check:
            found.check(parts, validates=self.rule.validation_fraction > 0)
        return replace(found, untested=sum(not len(client.test) for client in self.seen))

    def _parts(self, table: PairTable) -> tuple[list[Pair], Ints]:
        """The pairs that clients hold, and the part of each."""
        held = [
            (rows, code)
            for client in self.clients
            for rows, code in ((client.train, TRAIN), (client.validation, VALIDATION), (client.test, TEST))
        ]
        pairs = [table.pairs[int(row)] for rows, _ in held for row in rows]
        return pairs, np.repeat([code for _, code in held], [len(rows) for rows, _ in held])


def partition(table: PairTable, config: PartitionConfig, seed: int) -> Partition:
    """Hold out what tests, over all clients, then deal the pairs to clients.

    Args:
        table: The pairs.
        config: The kind of partition, its sizes, the unit that is held out and its fractions.
        seed: Names all draws.

    Returns:
        The clients; an equal table, configuration and seed give an equal partition.

    Raises:
        ConfigError: If a share names an unknown group, or a group gets no client.
        DataError: If the pairs lack the groups, users or splits that the partition needs, or are too few for its
            clients, or too alike to be held out.
    """
    rule = make_rule(
        table.pairs,
        config.unit,
        seed,
        test_fraction=config.test_fraction,
        validation_fraction=config.validation_fraction,
    )
    held = hold_out(table.pairs, rule)
    deal = _DEALERS[config.kind](table, config, seed, held)
    rows = np.flatnonzero(deal.owner != NOBODY)
    owner, parts = deal.owner[rows], held[rows]
    pairs = [table.pairs[row] for row in rows]
    if config.pairs_per_client is not None:
        keys = _order_keys(seed, [deal.ids[client] for client in owner], [pair.prompt for pair in pairs])
        parts = cap_training(parts, owner, keys, config.pairs_per_client)
    counts = part_counts(owner, parts, len(deal.ids))
    Holding(table, deal.owner, counts, config, seed).check_clients(deal.ids)
    check_held_out(pairs, parts, rule)
    groups = _client_groups(owner, [pair.group for pair in pairs], len(deal.ids))
    rows = rows[np.lexsort((rows, parts, owner))]
    clients = (_shortened(client, config.unseen_pairs) for client in _slice(deal, groups, rows, counts))
    return Partition(tuple(clients), rule)


def _order_keys(seed: int, client_ids: Sequence[str], prompts: Sequence[Text]) -> NDArray[np.uint64]:
    """A random number for each pair, a function of seed, client and prompt: which pairs a cap keeps."""
    keys = (entropy(seed, "cap", one, prompt_name(text)) >> 64 for one, text in zip(client_ids, prompts, strict=True))
    return np.fromiter(keys, np.uint64, len(prompts))


def _client_groups(owner: Ints, groups: Sequence[str | None], clients: int) -> list[str | None]:
    """The one group of each client's pairs; None where they have several or none."""
    names, codes = factorise(groups)
    low, high = np.full(clients, len(names)), np.full(clients, -1)
    np.minimum.at(low, owner, codes)
    np.maximum.at(high, owner, codes)
    return [names[a] if a == b and a >= 0 else None for a, b in zip(low.tolist(), high.tolist(), strict=True)]


def _slice(deal: Deal, groups: Sequence[str | None], rows: Ints, counts: Ints) -> list[ClientRows]:
    """Cut the rows, sorted by client, part and number, into clients."""
    ends = np.cumsum(counts).tolist()
    starts = [0, *ends[:-1]]
    clients = []
    for number, (client_id, group) in enumerate(zip(deal.ids, groups, strict=True)):
        first = number * (UNUSED + 1)
        train, validation, test = (
            rows[starts[first + part] : ends[first + part]] for part in (TRAIN, VALIDATION, TEST)
        )
        clients.append(ClientRows(client_id, group, number < deal.seen, train, validation, test))
    return clients


def _shortened(client: ClientRows, context: int | None) -> ClientRows:
    """An unseen client with so many context pairs at most."""
    return client if client.seen else replace(client, train=client.train[:context])
