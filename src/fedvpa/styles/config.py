"""What a simulation is asked for, apart from the model that is sampled."""

from __future__ import annotations

from pydantic import Field

from fedvpa.core.config import Config
from fedvpa.core.numbers import Count, Scale, Seed, Temperature

DEFAULT_POPULATION = "two-styles"


class SimulationConfig(Config):
    """Users, their pairs, and the samples that these are made of.

    Attributes:
        users: A population, or a YAML file of one.
        clients: Users who train.
        unseen: Further users, for ``partition.unseen``.
        pairs: Pairs of each user. Chosen by us: where users are simulated pairs are free, and with 200 an order of
            styles was learned that 40 had not shown.
        samples: Samples of each prompt; as many as ``policy.candidates.samples``.
        temperature: Of the samples. 0.7, as policies are served and judged (``policy.judging.temperature``).
        top_p: Nucleus of the samples.
        max_new_tokens: Longest sample. Chosen by us: half of what stage 2 samples by default, for the time it takes.
        label_temperature: Of the labels, in units of utility; see :data:`fedvpa.styles.utility.GAP`.
        pair_prompts: How many prompts are sampled and make pairs; None for six in ten.
        seed: Names every draw.
    """

    users: str = DEFAULT_POPULATION
    clients: Count = 10
    unseen: int = Field(default=0, ge=0, le=10_000_000)
    pairs: Count = 200
    samples: int = Field(default=4, ge=2, le=10_000)
    temperature: Temperature = 0.7
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: Count = 128
    label_temperature: Scale = 1.0
    pair_prompts: Count | None = None
    seed: Seed = 0
