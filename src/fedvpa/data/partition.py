"""The partition of a table into clients, each with train, validation and test pairs.

A partition is a function of (table, configuration, seed). Every pair goes to at most one client and one part. What
stays the same when something changes:

- ``natural``: a client is a user, and the split of its pairs depends on the seed, its own id and its own pairs alone.
  Another user's arrival or departure changes no other split. Which users are held out as unseen follows from their
  hashed ids: an arrival displaces at most one of them per group.
- ``group`` and ``dirichlet``: pairs are shuffled by their hashed ids, so the order of the table does not matter; a
  different number of clients deals all pairs anew. Pairs named after their row number are dealt by that number.
- ``pairs_per_client`` cuts after deal and split: raising it adds train pairs and moves none. (Only where the cut falls
  among pairs of one prompt does the order of the table decide.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.errors import DataError, nearest
from fedvpa.core.seeds import entropy
from fedvpa.data.deal import NOBODY, Deal, deal_dirichlet, deal_groups, deal_users, factorise
from fedvpa.data.partition_config import Kind, PartitionConfig
from fedvpa.data.schema import Pair, PairTable, Text
from fedvpa.data.shards import SPLITS
from fedvpa.data.splits import TEST, TRAIN, UNDECIDED, UNUSED, VALIDATION, Ints, SplitRule, draw_splits

__all__ = ["ClientRows", "Partition", "PartitionConfig", "partition"]

_DEALERS: dict[Kind, Callable[[PairTable, PartitionConfig, int], Deal]] = {
    "group": deal_groups,
    "dirichlet": deal_dirichlet,
    "natural": deal_users,
}
_CODES: dict[str | None, int] = {None: UNDECIDED, "train": TRAIN, "validation": VALIDATION, "test": TEST}


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
    """All clients, seen ones first."""

    clients: tuple[ClientRows, ...]

    def __len__(self) -> int:
        return len(self.clients)

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


def partition(table: PairTable, config: PartitionConfig, seed: int) -> Partition:
    """Deal the pairs to clients and split each client's pairs.

    Pairs of one client that share their prompt stay in one part, unless the data prescribe otherwise. Where a pair
    says its split, that is kept; the others are drawn.

    Args:
        table: The pairs.
        config: The kind of partition, its sizes and fractions.
        seed: Names all draws.

    Returns:
        The clients; an equal table, configuration and seed give an equal partition.

    Raises:
        ConfigError: If a share names an unknown group, or a group gets no client.
        DataError: If the pairs lack the groups or users that the partition needs, or are too few for its clients.
    """
    deal = _DEALERS[config.kind](table, config, seed)
    rows = np.flatnonzero(deal.owner != NOBODY)
    owner = deal.owner[rows]
    pairs = [table.pairs[row] for row in rows]
    prescribed = _prescribed(pairs)
    prompt_key = _prompt_keys(seed, [deal.ids[client] for client in owner], [pair.prompt for pair in pairs])
    rule = SplitRule(config.test_fraction, config.validation_fraction, config.min_test, config.pairs_per_client)
    parts = draw_splits(owner, prompt_key, prescribed, len(deal.ids), rule)
    counts = np.bincount(owner * (UNUSED + 1) + parts, minlength=len(deal.ids) * (UNUSED + 1)).reshape(-1, UNUSED + 1)
    _check_counts(deal, counts, config)
    groups = _client_groups(owner, [pair.group for pair in pairs], len(deal.ids))
    rows = rows[np.lexsort((rows, parts, owner))]
    return Partition(tuple(_shortened(client, config.unseen_pairs) for client in _slice(deal, groups, rows, counts)))


def _prescribed(pairs: Sequence[Pair]) -> Ints:
    """The split that the data prescribe for each pair, as a code."""
    unknown = {pair.split for pair in pairs} - _CODES.keys()
    if unknown:
        name = str(sorted(map(str, unknown))[0])
        raise DataError(f"the split {name!r} is not known.", fix=nearest(name, SPLITS))
    return np.fromiter((_CODES[pair.split] for pair in pairs), np.int64, len(pairs))


def _prompt_keys(seed: int, client_ids: Sequence[str], prompts: Sequence[Text]) -> NDArray[np.uint64]:
    """A random number for each pair, a function of seed, client and prompt."""
    texts = (prompt if isinstance(prompt, str) else repr(prompt) for prompt in prompts)
    keys = (entropy(seed, "split", *names) >> 64 for names in zip(client_ids, texts, strict=True))
    return np.fromiter(keys, np.uint64, len(prompts))


def _check_counts(deal: Deal, counts: Ints, config: PartitionConfig) -> None:
    """Every client must have its least number of train and test pairs."""
    short = (counts[:, TRAIN] < config.min_train) | (counts[:, TEST] < config.min_test)
    if not short.any():
        return
    client = int(np.flatnonzero(short)[0])
    train, test, total = counts[client, TRAIN], counts[client, TEST], counts[client].sum()
    natural = config.kind == "natural"
    raise DataError(
        f"client {deal.ids[client]!r} holds too few pairs: {total} in all, {train} train and {test} test, and it "
        f"needs at least {config.min_train} and {config.min_test} ({int(short.sum())} of {len(short)} clients fall "
        "short; pairs of one prompt are never parted).",
        fix="Lower partition.min_train or partition.min_test, "
        + ("or leave such users out with partition.drop_small=true." if natural else "or lower partition.clients."),
    )


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
