"""Names of objectives, as a configuration gives them: ``world:helpful``, ``selector:0``, ``reward-model:PATH``.

Read without torch, so that a wrong name is an error at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedvpa.core.errors import ConfigError
from fedvpa.rewards.registry import REWARDS

SELECTOR, REWARD_MODEL, STYLES, WORLD = "selector", "reward-model", "styles", "world"

FORMS = (
    "world:GROUP (the bundled world's exact utility of a group), selector:N (the run's selector at prototype N), "
    "reward-model:PLACE (a folder or hub id), or REWARD:PREFERENCE (an added reward)"
)
"""What an objective can be called, for messages."""


@dataclass(frozen=True, slots=True)
class ObjectiveName:
    """One objective.

    Attributes:
        kind: ``selector``, or the name of a reward.
        of: The number of a prototype, the place of a reward model, or the preference that a reward scores under.
    """

    kind: str
    of: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.of}"


def parse_objective(name: str, where: str = "") -> ObjectiveName:
    """Read the name of one objective.

    Args:
        name: As a configuration has it.
        where: The configuration key, for messages.

    Raises:
        ConfigError: If it has no such form, there is no such reward, or the world has no such group.
    """
    kind, colon, of = name.partition(":")
    if not colon or not kind or not of:
        raise ConfigError(f"{name!r} is no objective.", fix=f"An objective is {FORMS}.", where=where)
    if kind == SELECTOR:
        if not (of.isascii() and of.isdigit()):
            raise ConfigError(
                f"{name!r} is no objective: {of!r} is no number of a prototype.",
                fix="Count the selector's prototypes from 0: selector:0.",
                where=where,
            )
        return ObjectiveName(kind, str(int(of)))
    REWARDS.check(kind, where)
    if kind == WORLD:
        from fedvpa.world.users import find_utility  # with NumPy, which a configuration without objectives needs not

        find_utility(of)
    return ObjectiveName(kind, of)


def parse_objectives(names: Sequence[str], where: str = "") -> tuple[ObjectiveName, ...]:
    """Read the names of several objectives, in their order.

    Raises:
        ConfigError: As :func:`parse_objective`, or if an objective is named twice.
    """
    found = tuple(parse_objective(name, where) for name in names)
    twice = next((name for place, name in enumerate(found) if name in found[:place]), None)
    if twice is not None:
        raise ConfigError(f"The objective {str(twice)!r} is named twice.", fix="Name each once.", where=where)
    return found


def default_objectives(population: str | None, prototypes: int) -> tuple[ObjectiveName, ...]:
    """What is optimised where the configuration names nothing.

    Args:
        population: The name of the bundled world's population; None for other data.
        prototypes: How many prototypes the run's selector has; 0 without one.

    Returns:
        On the bundled world the exact utilities of the population's groups; elsewhere, and for a population without
        groups, the selector's prototypes.
    """
    if population is not None:
        from fedvpa.world.users import find_population

        found = find_population(population)
        if found.has_groups:
            return tuple(ObjectiveName(WORLD, utility.name) for utility in found.utilities)
    return tuple(ObjectiveName(SELECTOR, str(number)) for number in range(prototypes))
