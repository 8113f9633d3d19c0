"""Labelled pairs of the bundled world: every user draws from a stream of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from fedvpa.core.errors import ConfigError
from fedvpa.core.seeds import numpy_generator
from fedvpa.world.attributes import attribute_grid
from fedvpa.world.config import DEFAULT_TEMPERATURE, Pool
from fedvpa.world.grammar import render
from fedvpa.world.prompts import Prompt, prompts
from fedvpa.world.users import User, find_population, make_users
from fedvpa.world.utility import preference


@dataclass(frozen=True, slots=True)
class WorldPair:
    """One labelled pair.

    Attributes:
        prompt: What both responses answer.
        chosen: The response that the user preferred.
        rejected: The other one; its attributes differ from those of ``chosen``.
        user_id: Who labelled it.
        group: The user's group; None of an individual. For evaluation, never for training.
    """

    prompt: str
    chosen: str
    rejected: str
    user_id: str
    group: str | None


def generate_world(
    population: str,
    users: int,
    pairs_per_user: int,
    seed: int,
    temperature: float = DEFAULT_TEMPERATURE,
    flip: float = 0.0,
    *,
    shares: Sequence[float] | None = None,
    pool: Pool = "train",
) -> tuple[WorldPair, ...]:
    """Labelled pairs of a population, user by user.

    Adding users, or pairs per user, changes none of the pairs that were there before.

    Args:
        population: A name in ``fedvpa.world.users.POPULATIONS``.
        users: How many users.
        pairs_per_user: How many pairs each of them labels.
        seed: Names the world; on it everything else depends.
        temperature: Of the Bradley–Terry draws, in units of utility. Lower is less noisy.
        flip: Probability that a label is turned round.
        shares: The share of each group; None for equal shares.
        pool: Where prompts come from.

    Raises:
        ConfigError: For an unknown population or pool, or a number outside its range.
    """
    if pairs_per_user < 1:
        raise ConfigError(f"{pairs_per_user} pairs per user are too few.", fix="Ask for at least one.")
    members = make_users(find_population(population), users, seed, shares)
    return tuple(
        pair
        for user in members
        for pair in user_pairs(user, pairs_per_user, seed, temperature=temperature, flip=flip, pool=pool)
    )


def user_pairs(
    user: User,
    pairs: int,
    seed: int,
    *,
    temperature: float = DEFAULT_TEMPERATURE,
    flip: float = 0.0,
    pool: Pool = "train",
) -> tuple[WorldPair, ...]:
    """The first ``pairs`` pairs that one user labels. Arguments as in ``generate_world``."""
    rng = numpy_generator(seed, "world", "pairs", pool, user.user_id)
    return tuple(_draw_pair(user, temperature, flip, pool, rng) for _ in range(pairs))


def draw_prompt(rng: np.random.Generator, pool: Pool) -> Prompt:
    """A prompt of the pool: benign or risky by a fair coin, then all equally likely."""
    risky = bool(rng.integers(2))
    candidates = _prompts_by_risk(pool, risky)
    return candidates[int(rng.integers(len(candidates)))]


@cache
def _prompts_by_risk(pool: Pool, risky: bool) -> tuple[Prompt, ...]:
    return tuple(prompt for prompt in prompts(pool) if prompt.intent.risky == risky)


def _draw_pair(user: User, temperature: float, flip: float, pool: Pool, rng: np.random.Generator) -> WorldPair:
    """Two responses with different attributes, all such pairs equally likely, labelled by the user."""
    prompt = draw_prompt(rng, pool)
    grid = attribute_grid()
    first, second = (grid[row] for row in rng.choice(len(grid), size=2, replace=False))
    texts = [render(prompt.intent, attributes, rng) for attributes in (first, second)]
    gap = np.array([user.utility.value(a, prompt.intent.risky) for a in (first, second)]) @ np.array([1.0, -1.0])
    if rng.random() >= preference(gap, temperature, flip):
        texts.reverse()
    return WorldPair(prompt.text, texts[0], texts[1], user.user_id, user.group)
