"""The file beside a simulated table: who the users are, and what their taste is measured by.

``simulation.json`` holds all that decides what a text is worth to a user, so that a reward needs it and a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedvpa.core.errors import ConfigError, RunError, nearest
from fedvpa.core.files import read_own_object, write_json
from fedvpa.core.schema import VERSIONS, check_version
from fedvpa.styles.standard import Standard
from fedvpa.styles.users import StyleUser
from fedvpa.styles.utility import StyleUtility

FILE = "simulation.json"
"""Its name."""

TABLE = "pairs.jsonl"
"""The name of the table that it stands beside."""


@dataclass(frozen=True)
class Simulation:
    """Users of a simulated table and their tastes.

    Attributes:
        population: Its name.
        groups: Group → property → weight, in units of utility; empty where users are individuals.
        users: All of them.
        standard: The base model's scale.
        temperature: Of the labels, in units of utility.
        notes: What else is said of the simulation: model, prompts, seed, Bayes accuracy.
    """

    population: str
    groups: Mapping[str, Mapping[str, float]]
    users: tuple[StyleUser, ...]
    standard: Standard
    temperature: float
    notes: Mapping[str, Any] = field(default_factory=dict)

    def utility(self, preference: str) -> StyleUtility:
        """The utility of a group or of a user.

        Raises:
            ConfigError: If there is neither.
        """
        known = {user.user_id: user.weights for user in self.users} | dict(self.groups)
        if preference not in known:
            names = self.groups or known
            raise ConfigError(f"The simulated users have no group {preference!r}.", fix=nearest(preference, names))
        return StyleUtility(known[preference], self.standard)

    def save(self, folder: Path) -> None:
        """Write the file, atomically."""
        write_json(
            folder / FILE,
            {
                "schema_version": VERSIONS["simulation"],
                **self.notes,
                "population": self.population,
                "temperature": self.temperature,
                "groups": {name: dict(weights) for name, weights in self.groups.items()},
                "users": {user.user_id: _saved(user, self.groups) for user in self.users},
                **self.standard.to_dict(),
            },
        )

    @classmethod
    def load(cls, folder: Path) -> Simulation:
        """What :meth:`save` wrote.

        Raises:
            RunError: If there is no such file, or it is damaged or of another version.
        """
        path = folder / FILE
        if not path.is_file():
            raise RunError(
                f"holds no {FILE}.", fix="Give the folder that fedvpa simulate --out wrote.", where=str(folder)
            )
        found = read_own_object(path)
        fix = "Simulate again, in a new folder."
        check_version("simulation", found.pop("schema_version", None), where=str(path), fix=fix)
        try:
            standard = Standard.from_dict({name: found.pop(name) for name in ("properties", "fluency")})
            groups = {str(name): _numbers(weights) for name, weights in found.pop("groups").items()}
            users = tuple(_loaded(str(name), own, groups) for name, own in found.pop("users").items())
            return cls(str(found.pop("population")), groups, users, standard, float(found.pop("temperature")), found)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"is damaged: {error!r}.", fix=fix, where=str(path)) from error


def _saved(user: StyleUser, groups: Mapping[str, Any]) -> dict[str, Any]:
    """A user of a group has its weights."""
    return {"group": user.group} if user.group in groups else {"weights": dict(user.weights)}


def _loaded(name: str, own: Mapping[str, Any], groups: Mapping[str, Mapping[str, float]]) -> StyleUser:
    group = own.get("group")
    return StyleUser(name, group, _numbers(own["weights"]) if group is None else groups[group])


def _numbers(weights: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(weight) for name, weight in weights.items()}
