"""Who holds which pair: by group, by Dirichlet mixtures of groups or of topics, or by user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.errors import ConfigError, DataError, nearest
from fedvpa.core.options import column_option
from fedvpa.core.seeds import Label, entropy, numpy_generator
from fedvpa.data.partition_config import PartitionConfig
from fedvpa.data.schema import PairTable
from fedvpa.data.shares import apportion, fit_table
from fedvpa.data.shortage import Holding, has_enough, part_counts
from fedvpa.data.splits import TEST, Ints
from fedvpa.data.topics import topics_of

NOBODY = -1


@dataclass(frozen=True)
class Deal:
    """Clients and the pairs that they hold.

    Attributes:
        ids: The clients' ids, seen ones first.
        seen: How many of them train.
        owner: Client number of each row of the table; −1 where nobody holds it.
    """

    ids: tuple[str, ...]
    seen: int
    owner: Ints


def hashed(seed: int, purpose: str, names: Sequence[Label]) -> NDArray[np.uint64]:
    """A uniform random number for each name, a function of seed, purpose and name."""
    return np.fromiter((entropy(seed, purpose, name) >> 64 for name in names), np.uint64, len(names))


def deal_groups(table: PairTable, config: PartitionConfig, seed: int, held: Ints) -> Deal:
    """Deal the pairs of each group to the clients of that group.

    Without ``shares`` every pair is dealt. With them, the clients of all groups are given pairs at one rate, and the
    pairs that a group has left over go to nobody: were they dealt, few clients with many pairs each would undo the
    imbalance that the shares ask for.

    Args:
        table: The pairs; all need a group.
        config: ``clients``, ``unseen``, ``shares``, ``sizes`` and ``sigma`` are read.
        seed: Names the draw.
        held: The part of each pair; pairs are dealt part by part.

    Returns:
        Clients named ``<group>-<number>`` and ``<group>-unseen-<number>``, group by group.

    Raises:
        ConfigError: If a share names an unknown group, or a group gets no client.
        DataError: If the pairs lack groups, or there are fewer than two.
    """
    names, codes = _groups(table, config)
    wanted = sorted(config.shares) if config.shares else names
    seen = apportion(config.dealt_clients, [config.shares.get(name, 1.0) for name in wanted])
    if 0 in seen:
        raise ConfigError(
            f"{config.dealt_clients} clients give group {wanted[seen.index(0)]!r} none.",
            fix="Raise the number of clients or the group's share, or leave the group out of partition.shares.",
            where="partition.clients",
        )
    unseen = apportion(config.unseen, [1.0] * len(wanted))
    ids, client_group = [], []
    for counts, infix in ((seen, ""), (unseen, "-unseen")):
        for name, count in zip(wanted, counts, strict=True):
            ids += [f"{name}{infix}-{number}" for number in range(count)]
            client_group += [names.index(name)] * count
    group_of, weights = np.array(client_group), _size_weights(ids, config, seed)
    owner = np.full(len(table), NOBODY, dtype=np.int64)
    for stratum in _strata(table, seed, held):
        mine = {code: stratum[codes[stratum] == code] for code in set(client_group)}
        units = {code: len(rows) / weights[group_of == code].sum() for code, rows in mine.items()}
        if config.shares:
            units = dict.fromkeys(units, min((unit for unit in units.values() if unit), default=0.0))
        for code, rows in mine.items():
            clients = np.flatnonzero(group_of == code)
            _hand_out(owner, rows, clients, weights[clients] * units[code])
    return Deal(tuple(ids), sum(seen), owner)


def deal_dirichlet(table: PairTable, config: PartitionConfig, seed: int, held: Ints) -> Deal:
    """Deal pairs to clients that are mixtures of groups; see :func:`_deal_mixtures`.

    Args:
        table: The pairs; all need a group.
        config: ``clients``, ``unseen``, ``alpha``, ``sizes`` and ``sigma`` are read.
        seed: Names the draw.
        held: The part of each pair; pairs are dealt part by part.

    Returns:
        Clients named ``client-<number>`` and ``unseen-<number>``.

    Raises:
        DataError: If the pairs lack groups, or there are fewer than two.
    """
    names, codes = _groups(table, config)
    return _deal_mixtures(table, config, seed, held, codes, len(names))


def deal_topics(table: PairTable, config: PartitionConfig, seed: int, held: Ints) -> Deal:
    """Deal pairs to clients whose prompts are mixtures of topics; see :func:`_deal_mixtures`.

    So clients' prompts differ, and what their users prefer does not. Groups are not read.

    Args:
        table: The pairs.
        config: ``clients``, ``unseen``, ``topics``, ``alpha``, ``sizes`` and ``sigma`` are read.
        seed: Names the draw.
        held: The part of each pair; pairs are dealt part by part.

    Returns:
        Clients named ``client-<number>`` and ``unseen-<number>``.

    Raises:
        DataError: If there are fewer different prompts than topics.
    """
    codes = topics_of([pair.prompt for pair in table.pairs], config.topics)
    return _deal_mixtures(table, config, seed, held, codes, config.topics)


def _deal_mixtures(table: PairTable, config: PartitionConfig, seed: int, held: Ints, codes: Ints, kinds: int) -> Deal:
    """Deal pairs of several kinds to clients that are mixtures of them.

    Every client draws its mixture from Dirichlet(alpha). All pairs are dealt: the table (clients x kinds) of mixture
    times size is scaled to the kinds' totals by iterative proportional fitting (Sinkhorn) and rounded, so that the
    clients' sizes are met as nearly as the kinds' totals allow.
    """
    seen = config.dealt_clients
    ids = [f"client-{number}" for number in range(seen)] + [f"unseen-{number}" for number in range(config.unseen)]
    alpha = np.full(kinds, config.alpha)
    mixtures = np.stack([numpy_generator(seed, "mixture", name).dirichlet(alpha) for name in ids])
    sizes = _size_weights(ids, config, seed)
    owner = np.full(len(table), NOBODY, dtype=np.int64)
    for stratum in _strata(table, seed, held):
        mine = [stratum[codes[stratum] == code] for code in range(kinds)]
        quotas = fit_table(mixtures, sizes, np.array([len(rows) for rows in mine], dtype=float))
        for rows, quota in zip(mine, quotas.T, strict=True):
            _hand_out(owner, rows, np.arange(len(ids)), quota)
    return Deal(tuple(ids), seen, owner)


def deal_users(table: PairTable, config: PartitionConfig, seed: int, held: Ints) -> Deal:
    """Every user is a client.

    Args:
        table: The pairs; all need a user.
        config: ``clients``, ``unseen``, ``drop_small``, ``min_train`` and ``min_test`` are read.
        seed: Names the draw of the unseen users, and of the seen ones where there are more than needed.
        held: The part of each pair; of a user that may be too small, the training and the test pairs count. Unseen
            users are drawn from those that have test pairs, as far as there are so many.

    Returns:
        Clients named after their users, sorted within the seen and within the unseen ones.

    Raises:
        DataError: If pairs lack a user, or there are fewer users than clients.
    """
    names, codes = factorise([pair.user_id for pair in table.pairs])
    _check_users(codes)
    counts = part_counts(codes, held, len(names))
    Holding(table, codes, counts, config, seed).check_users()
    users = np.flatnonzero(has_enough(counts, config) | (not config.drop_small))
    users = users[np.argsort(hashed(seed, "user", [names[user] for user in users]), kind="stable")]
    tested = counts[:, TEST] > 0  # an unseen user is there to be scored
    unseen = _balanced(users, tested, _user_groups(table, codes, len(names)), config.unseen)
    seen = users[~np.isin(users, unseen)][: config.clients]
    order = np.concatenate([np.sort(seen), np.sort(unseen)])
    position = np.full(len(names), NOBODY, dtype=np.int64)
    position[order] = np.arange(len(order))
    return Deal(tuple(names[user] for user in order), len(seen), position[codes])


def factorise(values: Sequence[str | None]) -> tuple[list[str], Ints]:
    """The distinct values, sorted, and for each value its number there; −1 for None."""
    names = sorted({value for value in values if value is not None})
    number: dict[str | None, int] = {name: index for index, name in enumerate(names)}
    return names, np.fromiter((number.get(value, -1) for value in values), np.int64, len(values))


def _groups(table: PairTable, config: PartitionConfig) -> tuple[list[str], Ints]:
    """The groups of the table, checked for what dealing by group needs."""
    names, codes = factorise([pair.group for pair in table.pairs])
    missing = int((codes < 0).sum())
    if missing:
        count = "the pairs have no group" if missing == len(codes) else f"{missing} of {len(codes)} pairs have no group"
        raise DataError(
            f"{count}, and a partition of kind {config.kind!r} needs one for each.",
            fix=f"Name their column with {column_option('group')}, or use partition.kind=natural.",
        )
    for name in config.shares:
        if name not in names:
            raise ConfigError(f"no pair is of group {name!r}.", fix=nearest(name, names), where="partition.shares")
    used = len(config.shares) or len(names)
    if used < 2:
        raise DataError(
            f"a partition of kind {config.kind!r} needs two groups or more, and is given "
            f"{', '.join(config.shares or names) or 'none'}.",
            fix="Give pairs of further groups, or use partition.kind=natural.",
        )
    return names, codes


def _strata(table: PairTable, seed: int, held: Ints) -> list[Ints]:
    """Rows in the order of the deal, apart for each part."""
    ids = [pair.pair_id for pair in table.pairs]
    if len(set(ids)) < len(ids):
        raise DataError(
            "pairs share a pair_id, and dealing them to clients needs unique ones.",
            fix="Give every pair its own pair_id.",
        )
    order = np.argsort(hashed(seed, "deal", ids), kind="stable")
    return [order[held[order] == part] for part in np.unique(held)]


def _size_weights(ids: Sequence[str], config: PartitionConfig, seed: int) -> NDArray[np.float64]:
    """Relative sizes of the clients."""
    if config.sizes == "equal":
        return np.ones(len(ids))
    return np.exp([config.sigma * numpy_generator(seed, "size", name).standard_normal() for name in ids])


def _hand_out(owner: Ints, rows: Ints, clients: Ints, quota: NDArray[np.float64]) -> None:
    """Give each client its quota of ``rows``, one after the other; a running sum carries the rounding."""
    ends = np.floor(np.cumsum(quota) + 1e-6).astype(np.int64).clip(max=len(rows))
    owner[rows[: ends[-1]]] = np.repeat(clients, np.diff(ends, prepend=0))


def _check_users(codes: Ints) -> None:
    missing = int((codes < 0).sum())
    if missing:
        count = "the pairs have no user_id" if missing == len(codes) else f"{missing} of {len(codes)} lack a user_id"
        raise DataError(
            f"{count}, and a natural partition makes every user a client.",
            fix=f"Name their column with {column_option('user_id')}, or use partition.kind=group.",
        )


def _user_groups(table: PairTable, users: Ints, count: int) -> Ints:
    """The group number of each user; −1 for a user of several groups, or of none."""
    _, groups = factorise([pair.group for pair in table.pairs])
    low, high = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    np.minimum.at(low, users, groups)
    np.maximum.at(high, users, groups)
    return np.where(low == high, low, -1)


def _balanced(users: Ints, tested: NDArray[np.bool_], groups: Ints, total: int) -> Ints:
    """The first ``total`` users, tested ones before others, as evenly over groups as the groups' sizes allow."""
    users = np.concatenate([users[tested[users]], users[~tested[users]]])
    rank = np.empty(len(users), dtype=np.int64)
    for group in np.unique(groups[users]):
        members = groups[users] == group
        rank[members] = np.arange(members.sum())
    return users[np.lexsort((rank, ~tested[users]))[:total]]
