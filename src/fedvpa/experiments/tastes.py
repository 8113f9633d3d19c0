"""Whose taste decides where users have no groups: each user's own, if the judge knows it."""

from __future__ import annotations

from collections.abc import Iterable

from fedvpa.core.errors import ConfigError
from fedvpa.rewards.objective_names import WORLD
from fedvpa.runs.config import RunConfig
from fedvpa.world.users import find_population, individual_name


def own_tastes(config: RunConfig, users: Iterable[str]) -> dict[str, str]:
    """User → the name under which the bundled world's judge knows what that user likes.

    Args:
        config: The run, with its judge.
        users: The names of its users.

    Returns:
        Empty where groups decide, and for any other judge.

    Raises:
        ConfigError: If a client of the run is no user of the world.
    """
    if config.data.source != WORLD or config.judge_name != WORLD:
        return {}
    population = find_population(config.data.population)
    if population.has_groups:
        return {}
    if config.partition.kind != "natural":
        raise ConfigError(
            f"A client of partition.kind={config.partition.kind} holds pairs of several individuals, so that no "
            "utility of the bundled world is its own, and its policies cannot be judged.",
            fix="Make every user a client: partition.kind=natural.",
            where="configuration key 'partition.kind'",
        )
    return {user: individual_name(population.name, config.data.seed, user) for user in users}
