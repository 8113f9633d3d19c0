"""Source ``world``: pairs of the bundled preference world, whose users' utilities are known."""

from __future__ import annotations

from collections import Counter

from pydantic import Field

from fedvpa.core.numbers import Count, Seed, Temperature
from fedvpa.data.messages import Skip
from fedvpa.data.rows import EQUAL
from fedvpa.data.schema import Pair, PairTable
from fedvpa.data.sources.base import Source, SourceKeys
from fedvpa.data.tally import Tally
from fedvpa.world.config import DEFAULT_TEMPERATURE, Pool


class WorldKeys(SourceKeys):
    """Keys of the source ``world``.

    Attributes:
        population: The name of a population of users.
        users: How many users label pairs. Default: 20, the population of the demo.
        user_shares: The share of each of the population's groups, in the population's order, among the users who
            train; empty for equal shares. Unseen users come evenly from all groups that have a share, as under
            ``partition.shares``.
        pairs_per_user: Pairs of each. Default: 50, of which the default split trains on 40, the scarcity at which
            the world's figures are reported.
        temperature: Bradley–Terry temperature of the labels.
        flip: Probability of flipping a label afterwards.
        pool: Which prompts the users are asked: ``train``, ``validation`` or ``test``; no two pools share one.
        seed: Seed of the world. It is apart from a run's seed, so that several runs can share one world.
    """

    population: str = "two-groups"
    users: Count = 20
    user_shares: tuple[float, ...] = ()
    pairs_per_user: Count = 50
    temperature: Temperature = DEFAULT_TEMPERATURE
    flip: float = Field(default=0.0, ge=0, lt=0.5)
    pool: Pool = "train"
    seed: Seed = 0


def read(config: WorldKeys) -> PairTable:
    """Draw the world's pairs.

    Args:
        config: The keys of this source.

    Returns:
        The pairs, user by user. A pair is named after its user and its number among that user's pairs.

    Raises:
        InputError: If there is no such population.
    """
    from fedvpa.world.generate import generate_world  # deferred: the keys above are read without scipy

    tally, counts = Tally(config.strict), Counter[str]()
    for pair in generate_world(
        config.population,
        config.users,
        config.pairs_per_user,
        config.seed,
        config.temperature,
        config.flip,
        shares=config.user_shares or None,
        pool=config.pool,
    ):
        name = f"{pair.user_id}:{counts[pair.user_id]}"
        counts[pair.user_id] += 1
        same = pair.chosen == pair.rejected
        tally.add(
            Skip(EQUAL)
            if same
            else Pair(pair.prompt, pair.chosen, pair.rejected, user_id=pair.user_id, group=pair.group, pair_id=name),
            name,
        )
    return tally.table("world")


SOURCE = Source(WorldKeys, read)
