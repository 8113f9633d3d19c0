"""How many clients a comparison has where nobody says it, and whether the data have so many: before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from fedvpa.data.load import load
from fedvpa.data.partition import partition
from fedvpa.runs.config import RunConfig

PROTOCOL = (10, 50, 100)
"""FedVPA-GP's numbers of clients (arXiv 2605.30873, experiments)."""


def default_clients(config: RunConfig, seeds: int, first_seed: int) -> tuple[int, ...]:
    """The numbers of seen clients of a comparison that names none.

    Args:
        config: What all runs share.
        seeds: How many seeds.
        first_seed: The first of them.

    Returns:
        Where a client is a user of the data: ``partition.clients``, or all users that can be split under each of the
        seeds. Else ``PROTOCOL``.

    Raises:
        InputError: If the data cannot be used.
    """
    if not config.same_users:
        return PROTOCOL
    if config.partition.clients is not None:
        return (config.partition.clients,)
    table = load(config.data)
    every = range(first_seed, first_seed + seeds)
    return (min(len(partition(table, config.partition, seed).seen) for seed in every),)


def check_population(settings: Sequence[RunConfig]) -> None:
    """Raise what the partition has against any of the settings, which share their data.

    Args:
        settings: One for each number of clients and seed.

    Raises:
        InputError: If there are too few users or pairs, or too few prompts to hold some out.
    """
    if not settings or settings[0].data.source == "world":
        return
    table = load(settings[0].data)
    for config in settings:
        partition(table, config.partition, config.seed).held_out(table)
