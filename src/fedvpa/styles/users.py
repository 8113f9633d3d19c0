"""Users who weigh the properties of texts, and the populations they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml

from fedvpa.core.errors import ConfigError, nearest
from fedvpa.core.seeds import numpy_generator
from fedvpa.styles.properties import check_property

PREFIX = "user-"
"""What the names of users begin with, and those of groups do not."""

EXAMPLE = "groups: {brief: {length: -1}, thorough: {length: 1, lists: 0.5}}"
"""What a file of a population may hold, for messages."""


@dataclass(frozen=True)
class Population:
    """Where users come from.

    Attributes:
        name: In :data:`POPULATIONS`, or that of a file.
        groups: Group → property → its relative weight; empty where users are individuals.
        mean: Where users are individuals, the mean weight of each property; a user's own is normally distributed
            around it with standard deviation 1.
    """

    name: str
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    mean: Mapping[str, float] = field(default_factory=dict)

    @property
    def weighed(self) -> Mapping[str, Mapping[str, float]]:
        """Name → weights that are not zero of whatever the population weighs, for checks."""
        return self.groups or {self.name: dict.fromkeys(self.mean, 1.0)}


@dataclass(frozen=True)
class StyleUser:
    """Somebody who labels pairs.

    Attributes:
        user_id: Unique; with the seed, all that their draws depend on.
        group: None for an individual.
        weights: Property → its weight.
    """

    user_id: str
    group: str | None
    weights: Mapping[str, float]


# Chosen by us. Only properties are weighed in which a small chat model varies when it is asked for 64 tokens at
# temperature 0.7 (SmolLM2-135M-Instruct on HH-RLHF prompts: each differs in 47% or more of the pairs of samples of one
# prompt; lists, refusals, questions, exclamations, examples and emphasis in less than 20%). There plain and careful
# order 69% of these pairs in opposite ways, and the taste that individuals share orders 60% as the individual does.
_PLAIN = {
    "length": -0.5, "sentence_length": -1.0, "word_length": -1.0, "hedges": -0.5, "contractions": 0.5,
    "second_person": 0.5,
}  # fmt: skip
_CAREFUL = {
    "length": 0.5, "word_length": 1.0, "line_count": 1.0, "formal": 0.5, "hedges": 0.5, "commas": 0.5,
    "contractions": -0.5,
}  # fmt: skip
_FRIENDLY = {"warmth": 1.0, "second_person": 1.0, "first_person": 0.5, "contractions": 0.5, "formal": -0.5}
_FACTUAL = {
    "first_person": -1.0, "second_person": -0.5, "hedges": -0.5, "commas": 1.0, "word_length": 0.5,
    "contractions": -0.5,
}  # fmt: skip

# What most people want in some measure; the rest of an individual's taste is its own.
_SHARED = {
    "length": 0.5, "sentence_length": 0.0, "word_length": 0.0, "line_count": 0.5, "formal": 0.0, "contractions": 0.0,
    "hedges": -0.5, "warmth": 0.5, "first_person": -0.5, "second_person": 0.5, "connectives": 0.0, "commas": 0.0,
}  # fmt: skip

POPULATIONS: Mapping[str, Population] = MappingProxyType(
    {
        population.name: population
        for population in (
            Population("two-styles", {"plain": _PLAIN, "careful": _CAREFUL}),
            Population(
                "four-styles",
                {"plain": _PLAIN, "careful": _CAREFUL, "friendly": _FRIENDLY, "factual": _FACTUAL},
            ),
            Population("individuals", mean=_SHARED),
        )
    }
)
"""The populations of fedvpa, by name."""


def find_population(name: str) -> Population:
    """A population by its name, or from a YAML file; see :func:`read_population`.

    Raises:
        ConfigError: If there is neither.
    """
    if name in POPULATIONS:
        return POPULATIONS[name]
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return read_population(path)
    raise ConfigError(
        f"There is no population {name!r}.",
        fix=f"{nearest(name, POPULATIONS)} Known: {', '.join(POPULATIONS)}; or give a YAML file of weights, such as "
        f"{EXAMPLE}",
    )


def read_population(path: Path) -> Population:
    """A population from a YAML file: ``groups``, each with weights, or ``individuals``, with mean weights.

    Raises:
        ConfigError: If the file cannot be read, or holds something else.
    """
    where = str(path)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}.", fix="Check --users.", where=where) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError("is no YAML file in UTF-8.", fix=f"Write {EXAMPLE}", where=where) from error
    if not isinstance(found, dict) or len(found) != 1 or not {*found} <= {"groups", "individuals"}:
        raise ConfigError("a population has one key: groups, or individuals.", fix=f"Write {EXAMPLE}", where=where)
    if "individuals" in found:
        return Population(path.stem, mean=_weights(found["individuals"], "individuals", where, zero=True))
    groups = found["groups"]
    if not isinstance(groups, dict) or not groups:
        raise ConfigError("groups holds no group.", fix=f"Write {EXAMPLE}", where=where)
    for name in groups:
        if not isinstance(name, str) or not name or name.startswith(PREFIX):
            raise ConfigError(
                f"{name!r} cannot be the name of a group.",
                fix=f"Give a word that does not begin with {PREFIX!r}.",
                where=where,
            )
    return Population(path.stem, {name: _weights(own, name, where) for name, own in groups.items()})


def _weights(given: Any, of: str, where: str, *, zero: bool = False) -> dict[str, float]:
    """Property → weight as a file has them; ``zero`` allows weights that are all zero."""
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"{of} has no weights.", fix=f"Write {EXAMPLE}", where=where)
    for name, weight in given.items():
        check_property(name, where)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not np.isfinite(weight):
            raise ConfigError(f"the weight of {name} in {of} is {weight!r}.", fix="Give a number.", where=where)
    if not zero and not any(given.values()):
        raise ConfigError(f"the weights of {of} are all 0, so it likes nothing.", fix="Give others.", where=where)
    return {name: float(weight) for name, weight in given.items()}


def make_users(
    population: Population, count: int, seed: int, scale: Callable[[Mapping[str, float]], dict[str, float]]
) -> tuple[StyleUser, ...]:
    """The first ``count`` users. More users leave the earlier ones as they were.

    Args:
        population: Its groups take turns.
        count: How many, one or more.
        seed: Names the draws of individuals.
        scale: Makes weights in units of utility of relative ones.
    """
    names = [f"{PREFIX}{index:05d}" for index in range(count)]
    if not population.groups:
        return tuple(StyleUser(name, None, scale(_drawn(population, seed, name))) for name in names)
    groups = list(population.groups)
    weights = {group: scale(own) for group, own in population.groups.items()}
    owners = [groups[index % len(groups)] for index in range(count)]
    return tuple(StyleUser(name, group, weights[group]) for name, group in zip(names, owners, strict=True))


def _drawn(population: Population, seed: int, user_id: str) -> dict[str, float]:
    """The weights of an individual; each is drawn in a stream of its own, so that properties can be added."""
    streams = {name: numpy_generator(seed, "styles", "individual", user_id, name) for name in population.mean}
    return {name: mean + float(streams[name].standard_normal()) for name, mean in population.mean.items()}
