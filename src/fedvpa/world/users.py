"""Users with known utilities, and the populations they come from.

A user's utility is linear in the features φ of a response's attributes; on risky prompts further weights are added.
Users label pairs by Bradley–Terry draws; :mod:`fedvpa.world.accuracy` says how well anybody could predict them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fedvpa.core.errors import ConfigError, nearest
from fedvpa.core.seeds import numpy_generator
from fedvpa.world.utility import OFF_TOPIC_WEIGHT, Utility, grid_features

INDIVIDUAL_SEPARATOR = "/"
"""Stands between the parts of an individual's name."""


@dataclass(frozen=True, slots=True)
class Population:
    """Where users come from.

    Attributes:
        name: Its key in ``POPULATIONS``.
        utilities: The utilities of its groups; none where users are individuals.
        concentration: None if each user belongs to one group; otherwise every user's weights are a mixture of the
            utilities, with shares drawn from a Dirichlet distribution of this concentration.
        shared: Where users are individuals, the mean of the Gaussian from which each user's weights are drawn, one
            number per feature but ``off_topic``, in units of its standard deviation; None elsewhere.
    """

    name: str
    utilities: tuple[Utility, ...]
    concentration: float | None = None
    shared: tuple[float, ...] | None = None

    @property
    def has_groups(self) -> bool:
        """Whether users have a group, be it only the one that they lean to."""
        return bool(self.utilities)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who labels pairs.

    Attributes:
        user_id: Unique, and the only thing (with the seed) on which their draws depend.
        group: The group, or the largest share of a mixed user; None for an individual. Read by evaluation only.
        utility: What they like.
    """

    user_id: str
    group: str | None
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

INDIVIDUAL_GAP = 2.7
"""Root mean square of the difference of utility between the two responses of a pair, for every individual. It is about
that of the users of the other populations who belong to one group, so that labels are as noisy."""

RISKY_DEVIATION = 0.3
"""Standard deviation of what risky prompts add to an individual's weights, before they are scaled; that of the weights
is 1. Chosen by us: about what the groups have."""

POPULATIONS: dict[str, Population] = {
    population.name: population
    for population in (
        Population("two-groups", (_HELPFUL, _HARMLESS)),
        Population("four-groups", (_THOROUGH, _CAUTIOUS, _BRIEF, _FRIENDLY)),
        # Concentration chosen by us: most users lean clearly to one side, few are pure.
        Population("continuous", (_THOROUGH, _CAUTIOUS, _BRIEF, _FRIENDLY), concentration=0.5),
        # Chosen by us: most people want an answer, with details and some warmth, and differ in everything. The taste
        # that they share orders about 0.62 of a user's pairs as the user does.
        Population("individuals", (), shared=(0.8, 0.8, 0.0, 0.5, 0.0, 0.0)),
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
    """The utility of the group with this name, in whichever population it is, or of an individual.

    Args:
        name: Such as ``helpful``, or ``individuals/0/user-00003`` (population, seed of the world, user) as
            :func:`individual_name` makes it.

    Raises:
        ConfigError: If no population has such a group or user.
    """
    parts = name.split(INDIVIDUAL_SEPARATOR)
    if len(parts) == 3 and parts[0] in POPULATIONS and not POPULATIONS[parts[0]].has_groups:
        return _individual_named(POPULATIONS[parts[0]], name, *parts[1:]).utility
    utilities = {utility.name: utility for population in POPULATIONS.values() for utility in population.utilities}
    if name not in utilities:
        raise ConfigError(f"The bundled world has no group {name!r}.", fix=nearest(name, utilities))
    return utilities[name]


def individual_name(population: str, seed: int, user_id: str) -> str:
    """The name of an individual's utility: all that it depends on."""
    return INDIVIDUAL_SEPARATOR.join((population, str(seed), user_id))


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
    if not population.has_groups or population.concentration is not None:
        if shares is not None:
            what = "are mixtures, so groups have no shares" if population.has_groups else "have no groups to share out"
            raise ConfigError(f"Users of {population.name!r} {what}.", fix="Leave shares out (data.user_shares).")
        draw = _mixed_user if population.has_groups else _individual
        return tuple(draw(population, index, seed) for index in range(users))
    rows = _assign(users, _checked_shares(population, shares))
    return tuple(_user(index, population.utilities[row]) for index, row in enumerate(rows))


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


def _individual(population: Population, index: int, seed: int) -> User:
    """A user like nobody else: Gaussian weights, scaled to the gap that is the same for all individuals."""
    user_id = _user_id(index)
    rng = numpy_generator(seed, "world", "individual", population.name, user_id)
    assert population.shared is not None
    weights = np.asarray(population.shared) + rng.standard_normal(len(population.shared))
    risky = RISKY_DEVIATION * rng.standard_normal(len(population.shared))
    scale = INDIVIDUAL_GAP / np.sqrt(np.mean([_mean_square_gap(weights), _mean_square_gap(weights + risky)]))
    name = individual_name(population.name, seed, user_id)
    return User(user_id, None, _utility(name, (scale * weights).tolist(), (scale * risky).tolist()))


def _individual_named(population: Population, name: str, seed: str, user_id: str) -> User:
    index = user_id.removeprefix("user-")
    if not (seed.isdecimal() and seed.isascii() and index.isdecimal() and index.isascii()):
        index = ""
    user = _individual(population, int(index), int(seed)) if index else None
    if user is None or user.utility.name != name:
        raise ConfigError(
            f"The bundled world has no user {name!r}.",
            fix=f"Users of {population.name!r} are called {individual_name(population.name, 0, _user_id(0))!r}.",
        )
    return user


def _mean_square_gap(weights: Float[np.ndarray, " own"]) -> float:
    """Mean square difference of utility between the two responses of the world's pairs: wᵀCw.

    C is the covariance matrix of the difference of φ between two different combinations of attributes: that of two
    independent ones, by G / (G − 1) larger for a grid of G combinations.
    """
    grid = grid_features()[:, : len(weights)]
    differences = 2.0 * np.cov(grid.T, ddof=1)
    return float(weights @ differences @ weights)
