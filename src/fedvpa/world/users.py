"""Users with known utilities, the populations they come from, and how well anybody could predict them.

A user's utility is linear in the features φ of a response's attributes; on risky prompts further weights are added.
Users label pairs by Bradley–Terry draws, so the best accuracy that any model can reach (the Bayes accuracy) is a sum
over the attribute grid, and is computed rather than guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from fedvpa.core.errors import ConfigError, nearest
from fedvpa.core.seeds import numpy_generator
from fedvpa.world.attributes import MAX_BREVITY, MAX_DETAIL, MAX_WARMTH, Attributes, attribute_grid
from fedvpa.world.config import DEFAULT_TEMPERATURE

FEATURES: tuple[str, ...] = ("compliance", "detail", "caveat", "warmth", "formality", "brevity", "off_topic")
"""The features of a response. All run from −1 to 1 but the last, which runs from 0 to 1."""

OFF_TOPIC_WEIGHT = -4.0
"""What every user thinks of off-topic details. Chosen by us: one of them (a fifth) costs about as much as an on-topic
one can gain a user who loves details, so that padding never pays."""

WORST_MARGIN = 1.0
"""By how much text outside the grammar is worse than the worst text inside. Chosen by us: any positive number keeps
a policy from breaking its language."""


@dataclass(frozen=True, slots=True)
class Utility:
    """How much somebody likes a response: weightsᵀφ, plus risky_weightsᵀφ where the prompt is risky.

    Attributes:
        name: Of the group, or of the user where everybody differs.
        weights: One weight per feature of ``FEATURES``.
        risky_weights: What risky prompts add to ``weights``.
    """

    name: str
    weights: tuple[float, ...]
    risky_weights: tuple[float, ...]

    def value(self, attributes: Attributes, risky: bool) -> float:
        """The utility of a response with these attributes to a prompt that is risky or not."""
        return float(features(attributes) @ self.vector(risky))

    def vector(self, risky: bool) -> Float[np.ndarray, " features"]:
        """The weights in force on risky or on benign prompts."""
        return np.asarray(self.weights) + (np.asarray(self.risky_weights) if risky else 0.0)

    def worst(self, risky: bool) -> float:
        """What text outside the grammar is worth: ``WORST_MARGIN`` less than the worst text inside."""
        return float((_grid_features(off_topic=True) @ self.vector(risky)).min()) - WORST_MARGIN


@dataclass(frozen=True, slots=True)
class Population:
    """Where users come from.

    Attributes:
        name: Its key in ``POPULATIONS``.
        utilities: The utilities of its groups.
        concentration: None if each user belongs to one group; otherwise every user's weights are a mixture of the
            utilities, with shares drawn from a Dirichlet distribution of this concentration.
    """

    name: str
    utilities: tuple[Utility, ...]
    concentration: float | None = None


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who labels pairs.

    Attributes:
        user_id: Unique, and the only thing (with the seed) on which their draws depend.
        group: The group, or the largest share of a mixed user. Read by evaluation only.
        utility: What they like.
    """

    user_id: str
    group: str
    utility: Utility


def _utility(name: str, weights: Sequence[float], risky: Sequence[float] = (0.0,) * 6) -> Utility:
    return Utility(name, (*weights, OFF_TOPIC_WEIGHT), (*risky, 0.0))


# compliance, detail, caveat, warmth, formality, brevity. Chosen by us such that the two groups disagree on about three
# of four pairs, each group's Bayes accuracy is about 0.82, and no utility is blind to the others' attributes.
_HELPFUL = _utility("helpful", (1.4, 1.6, -0.3, 0.4, 0.1, -0.3))
_HARMLESS = _utility("harmless", (-1.0, -0.5, 1.2, 0.4, 0.3, 0.2), (-0.6, -0.2, 0.3, 0.0, 0.0, 0.0))
_THOROUGH = _utility("thorough", (0.6, 2.2, 0.0, 0.0, 0.2, -0.8))
_CAUTIOUS = _utility("cautious", (-1.2, -0.4, 1.3, 0.0, 0.3, 0.0), (-0.5, 0.0, 0.2, 0.0, 0.0, 0.0))
_BRIEF = _utility("brief", (0.9, -1.6, -0.5, -0.6, 0.0, 1.3))
_FRIENDLY = _utility("friendly", (0.3, 0.0, -0.3, 1.9, -1.3, -0.3))

POPULATIONS: dict[str, Population] = {
    population.name: population
    for population in (
        Population("two-groups", (_HELPFUL, _HARMLESS)),
        Population("four-groups", (_THOROUGH, _CAUTIOUS, _BRIEF, _FRIENDLY)),
        # Concentration chosen by us: most users lean clearly to one side, few are pure.
        Population("continuous", (_THOROUGH, _CAUTIOUS, _BRIEF, _FRIENDLY), concentration=0.5),
    )
}
"""The populations of the bundled world, by name."""


def find_population(name: str) -> Population:
    """The population with this name.

    Raises:
        ConfigError: If there is none; the nearest name is suggested.
    """
    if name not in POPULATIONS:
        raise ConfigError(f"The bundled world has no population {name!r}.", fix=nearest(name, POPULATIONS))
    return POPULATIONS[name]


def find_utility(name: str) -> Utility:
    """The utility of the group with this name, in whichever population it is.

    Raises:
        ConfigError: If no population has such a group.
    """
    utilities = {utility.name: utility for population in POPULATIONS.values() for utility in population.utilities}
    if name not in utilities:
        raise ConfigError(f"The bundled world has no group {name!r}.", fix=nearest(name, utilities))
    return utilities[name]


def make_users(
    population: Population, users: int, seed: int, shares: Sequence[float] | None = None
) -> tuple[User, ...]:
    """The first ``users`` users of a population. More users leave the earlier ones as they were.

    Args:
        population: Where they come from.
        users: How many.
        seed: Names the world.
        shares: The share of each group, in the order of ``population.utilities``; None for equal shares. Any prefix
            of the users is as close to the shares as whole users allow.

    Raises:
        ConfigError: For a count below one, or shares that do not fit the population.
    """
    if users < 1:
        raise ConfigError(f"A world of {users} users has nobody in it.", fix="Ask for at least one.")
    if population.concentration is not None:
        if shares is not None:
            raise ConfigError(
                f"Users of {population.name!r} are mixtures, so groups have no shares.", fix="Leave shares out."
            )
        return tuple(_mixed_user(population, index, seed) for index in range(users))
    rows = _assign(users, _checked_shares(population, shares))
    return tuple(_user(index, population.utilities[row]) for index, row in enumerate(rows))


def features(attributes: Attributes) -> Float[np.ndarray, " features"]:
    """φ: the features of a response, in the order of ``FEATURES``."""
    return np.array(
        [
            1.0 if attributes.compliance else -1.0,
            2.0 * attributes.detail / MAX_DETAIL - 1.0,
            1.0 if attributes.caveat else -1.0,
            2.0 * attributes.warmth / MAX_WARMTH - 1.0,
            1.0 if attributes.formality else -1.0,
            2.0 * attributes.brevity / MAX_BREVITY - 1.0,
            attributes.off_topic / MAX_DETAIL,
        ]
    )


def preference(gap: Float[np.ndarray, "*batch"], temperature: float, flip: float = 0.0) -> Float[np.ndarray, "*batch"]:
    """P(first preferred) = (1 − 2·flip)·σ(gap / temperature) + flip, the Bradley–Terry law with flipped labels.

    Args:
        gap: Utility of the first response minus utility of the second.
        temperature: Positive; in units of utility.
        flip: Probability in [0, 0.5) that the label is turned round after the draw.

    Raises:
        ConfigError: For a temperature or a flip outside its range.
    """
    if not temperature > 0.0:
        raise ConfigError(f"The temperature is {temperature}; it has to be positive.", fix="1.0 is the default.")
    if not 0.0 <= flip < 0.5:
        raise ConfigError(
            f"The flip probability is {flip}; at 0.5 and above labels say nothing, or the opposite.",
            fix="0.0 is the default.",
        )
    return (1.0 - 2.0 * flip) * expit(np.asarray(gap, dtype=np.float64) / temperature) + flip


def bayes_accuracy(utility: Utility, temperature: float = DEFAULT_TEMPERATURE, flip: float = 0.0) -> float:
    """The accuracy of whoever knows ``utility``, on the world's pairs: exactly E[max(p, 1 − p)].

    The expectation is over all ordered pairs of different attributes, and over benign and risky prompts in equal
    shares, which is how ``generate_world`` draws them. For a population, average over its users.
    """
    return expected_accuracy(utility, utility, temperature, flip)


def expected_accuracy(
    scorer: Utility, labeller: Utility, temperature: float = DEFAULT_TEMPERATURE, flip: float = 0.0
) -> float:
    """The exact accuracy of ranking the world's pairs by one utility when another one labels them.

    A tie of the scorer counts one half. With both equal this is the Bayes accuracy.
    """
    total = 0.0
    for risky in (False, True):
        p = preference(_gaps(labeller, risky), temperature, flip)
        guess = _gaps(scorer, risky)
        total += float(np.where(guess > 0, p, np.where(guess < 0, 1.0 - p, 0.5)).mean())
    return total / 2.0


def population_bayes_accuracy(
    users: Sequence[User], temperature: float = DEFAULT_TEMPERATURE, flip: float = 0.0
) -> float:
    """The mean Bayes accuracy of these users, each exact."""
    utilities = [user.utility for user in users]
    exact = {utility: bayes_accuracy(utility, temperature, flip) for utility in set(utilities)}
    return float(np.mean([exact[utility] for utility in utilities]))


def conflict_share(first: Utility, second: Utility) -> float:
    """The share of the world's pairs that two utilities rank in opposite ways; exact."""
    shares = [(_gaps(first, risky) * _gaps(second, risky) < 0).mean() for risky in (False, True)]
    return float(np.mean(shares))


@cache
def _grid_features(off_topic: bool = False) -> Float[np.ndarray, "grid features"]:
    return np.stack([features(attributes) for attributes in attribute_grid(off_topic)])


def _gaps(utility: Utility, risky: bool) -> Float[np.ndarray, " pairs"]:
    """Utility differences of all ordered pairs of different attributes, cleaned of rounding so that ties are ties."""
    values = _grid_features() @ utility.vector(risky)
    gaps = np.round(values[:, None] - values[None, :], 9)
    return gaps[~np.eye(len(values), dtype=bool)]


def _checked_shares(population: Population, shares: Sequence[float] | None) -> Float[np.ndarray, " groups"]:
    groups = len(population.utilities)
    given = np.ones(groups) if shares is None else np.asarray(shares, dtype=np.float64)
    if given.shape != (groups,) or not np.isfinite(given).all() or (given < 0).any() or given.sum() <= 0:
        names = ", ".join(utility.name for utility in population.utilities)
        raise ConfigError(
            f"The shares {shares} do not fit the {groups} groups of {population.name!r}.",
            fix=f"Give one non-negative number for each of {names}.",
        )
    return given / given.sum()


def _assign(users: int, shares: Float[np.ndarray, " groups"]) -> list[int]:
    """Each user joins the group that is furthest behind its share; nobody's group depends on later users."""
    counts, rows = np.zeros_like(shares), []
    for index in range(users):
        # Rounding keeps equal deficits equal; argmax then takes the first of them.
        row = int(np.argmax(np.round(shares * (index + 1) - counts, 9)))
        counts[row] += 1
        rows.append(row)
    return rows


def _user_id(index: int) -> str:
    return f"user-{index:05d}"


def _user(index: int, utility: Utility) -> User:
    return User(_user_id(index), utility.name, utility)


def _mixed_user(population: Population, index: int, seed: int) -> User:
    user_id = _user_id(index)
    rng = numpy_generator(seed, "world", "mixture", population.name, user_id)
    shares = rng.dirichlet(np.full(len(population.utilities), population.concentration))
    weights = shares @ np.array([utility.weights for utility in population.utilities])
    risky = shares @ np.array([utility.risky_weights for utility in population.utilities])
    group = population.utilities[int(np.argmax(shares))].name
    return User(user_id, group, Utility(user_id, tuple(map(float, weights)), tuple(map(float, risky))))
