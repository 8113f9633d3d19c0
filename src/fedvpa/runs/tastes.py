"""Whose taste decides where users have no groups: each user's own, if the judge knows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from fedvpa.core.errors import ConfigError
from fedvpa.rewards.objective_names import STYLES, WORLD
from fedvpa.rewards.styles_config import StylesConfig
from fedvpa.runs.config import RunConfig
from fedvpa.styles.simulation import Simulation
from fedvpa.world.users import find_population, individual_name


def own_tastes(config: RunConfig, users: Iterable[str]) -> dict[str, str]:
    """User → the name under which the judge knows what that user likes.

    Args:
        config: The run, with its judge.
        users: The names of its users.

    Returns:
        Empty where groups decide, and for a judge that does not know users.

    Raises:
        ConfigError: If a client of the run is no user that the judge knows.
        RunError: If the judge's simulation cannot be read.
    """
    if config.data.source == WORLD and config.judge_name == WORLD:
        population = find_population(config.data.population)
        if population.has_groups:
            return {}
        _check_users_are_clients(config, "the bundled world")
        return {user: individual_name(population.name, config.data.seed, user) for user in users}
    if config.data.source != WORLD and config.judge_name == STYLES:
        return _simulated(config, list(users))
    return {}


def _simulated(config: RunConfig, users: list[str]) -> dict[str, str]:
    """The tastes of simulated individuals, which have their users' names."""
    folder = StylesConfig.parse(config.policy.judging.settings).path
    simulation = Simulation.load(Path(folder).expanduser())
    if simulation.groups:
        return {}
    _check_users_are_clients(config, "the simulation")
    known = {user.user_id for user in simulation.users}
    unknown = next((user for user in users if user not in known), None)
    if unknown is not None:
        raise ConfigError(
            f"The simulation in {folder} has no user {unknown!r}, so nobody knows what that user likes.",
            fix="Give the folder of the simulation that wrote the run's data.",
            where="configuration key 'policy.judging.settings.path'",
        )
    return {user: user for user in users}


def _check_users_are_clients(config: RunConfig, whose: str) -> None:
    if config.partition.kind != "natural":
        raise ConfigError(
            f"A client of partition.kind={config.partition.kind} holds pairs of several individuals, so that no "
            f"utility of {whose} is its own, and its policies cannot be judged.",
            fix="Make every user a client: partition.kind=natural.",
            where="configuration key 'partition.kind'",
        )


def known_tastes(config: RunConfig, users: Iterable[str]) -> Mapping[str, str]:
    """:func:`own_tastes` where each client is a user and a judge is set; else empty, and nothing is an error."""
    if config.policy.judging.judge is None or config.partition.kind != "natural":
        return {}
    return own_tastes(config, users)
