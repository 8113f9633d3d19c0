"""Whether clients have true groups, and which methods of a comparison need them: known before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from fedvpa.algorithms.registry import make
from fedvpa.data.load import load
from fedvpa.data.partition import partition
from fedvpa.evaluation.own_wins import LEAST_SHARE, share_rated
from fedvpa.experiments.methods import selector_of
from fedvpa.runs.config import RunConfig
from fedvpa.world.users import find_population


def reading_groups(config: RunConfig, methods: Sequence[str]) -> list[str]:
    """Those of the methods that read true groups, such as ``oracle``, or whose policies start from one that does."""
    return [name for name in methods if make(selector_of(name), config.method_config).reads_groups]


def rate_the_same(config: RunConfig, clients: Sequence[int], seed: int) -> bool:
    """Whether users rate the same responses in several pairs, so that their own wins say something of test pairs.

    Arguments as of :func:`without_group`.
    """
    if not config.same_users:
        return False
    table, setting = load(config.data), config.with_clients(clients[0]).with_seed(seed)
    return share_rated(table.pairs, partition(table, setting.partition, setting.seed).seen) >= LEAST_SHARE


def without_group(config: RunConfig, clients: Sequence[int], seed: int) -> str:
    """Which clients have no group, in words; empty where all have one, as most of the world's users do.

    Args:
        config: What all runs share.
        clients: Numbers of seen clients.
        seed: The first one.
    """
    if config.data.source == "world":
        if not find_population(config.data.population).has_groups:
            return f"users of the population {config.data.population!r} are individuals without groups"
        if config.partition.kind in ("natural", "group"):
            return ""
    table = load(config.resolved_data())
    if not table.groups():
        return "the pairs name no groups"
    for size in clients:
        setting = config.with_clients(size).with_seed(seed)
        seen = partition(table, setting.partition, setting.seed).seen
        if nobody := sum(client.group is None for client in seen):
            return f"{nobody} of {len(seen)} clients have pairs of several groups or of none"
    return ""
