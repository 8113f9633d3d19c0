"""What FIRM and its yardsticks are configured by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from fedvpa.core.config import Config
from fedvpa.core.errors import ConfigError
from fedvpa.core.numbers import Count, LearningRate, Scale, Steps, Weight
from fedvpa.rewards.objective_names import parse_objectives

Averaging = Literal["avg", "ffa"]


class FirmConfig(Config):
    """Several objectives at once: ``firm`` and the yardsticks ``mgda``, ``scalar``, ``single``, ``soups``, ``fedcmoo``.

    The paper's hyper-parameters are not public. All defaults are chosen by us; on a language model of real size they
    are unproven. The bundled world has its own, see :mod:`fedvpa.runs.presets`.

    Attributes:
        objectives: The names of the objectives, as :mod:`fedvpa.rewards.objective_names` has them; None for the world's
            groups on the bundled world, and for the prototypes of the run's selector elsewhere.
        preference: p, one share for each objective, adding up to 1: in a list, or as ``0.7,0.3``. None for equal
            shares. ``single`` trains on the objective with the largest share.
        rho: ρ: how strongly the weights of each client are held to p. 0 is MGDA. The scale of the gradients does not
            matter. Chosen by ``benchmarks/firm.py``: clients of the bundled world then differ a tenth as much in their
            weights as at 0, and preferences still tell.
        completions: G, how many responses are sampled for each prompt.
        prompts: Prompts of each local step.
        steps: Local steps of a client in a round, each on new samples.
        updates: Steps of the optimiser on each set of samples. Beyond the first one the samples are of an older policy,
            and ``clip`` matters.
        rounds: Rounds.
        cohort: Clients per round.
        optimizer: ``sgd``, as the formula has it, or ``adamw`` (β 0.9, 0.95); fresh for every client and round.
        lr: Learning rate η.
        clip_norm: Longest gradient of a step.
        kl_weight: κ, the weight of the KL to the base policy, which stands outside the mixture.
        clip: How far from 1 the ratio of a token's new and old probability may go, before its gradient is stopped.
        lambda_every: Local steps between two computations of the weights λ; 1 is faithful, and dearer by one backward
            pass for each objective but the first.
        averaging: ``avg`` averages the LoRA factors, ``ffa`` freezes the factor A at its random start (FFA-LoRA, arXiv
            2403.12313), which makes the average exact.
        max_new_tokens: Longest sample.
        micro_batch: Samples per forward and backward pass; None for all of a step at once.
    """

    objectives: tuple[str, ...] | None = None
    preference: tuple[float, ...] | None = None
    rho: Weight = 4.0
    completions: int = Field(default=8, ge=2, le=1024)
    prompts: int = Field(default=4, ge=1, le=65_536)
    steps: Steps = 4
    updates: Steps = 1
    rounds: Count = 20
    cohort: int = Field(default=5, ge=1)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: LearningRate = 1e-5
    clip_norm: Scale = 1.0
    kl_weight: Weight = 0.05
    clip: float = Field(default=0.2, gt=0, lt=1)
    lambda_every: Steps = 1
    averaging: Averaging = "avg"
    max_new_tokens: int = Field(default=256, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)

    @field_validator("objectives", "preference", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """``0.7,0.3`` is a list too."""
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("preference")
    @classmethod
    def _on_the_simplex(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is None:
            return None
        shown = ",".join(f"{share:g}" for share in value)
        if any(share < 0 for share in value):
            raise ConfigError(f"the preference {shown} has a negative share.", fix="Give shares from 0 to 1.")
        if not math.isclose(sum(value), 1.0, abs_tol=1e-6):
            raise ConfigError(
                f"the shares of the preference {shown} add up to {sum(value):g}, not to 1.",
                fix="Give one share for each objective, such as 0.7,0.3.",
            )
        return value

    @field_validator("objectives")
    @classmethod
    def _several(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        if len(value) < 2:
            raise ConfigError(
                f"{len(value)} objective ({', '.join(value)}) leaves nothing to weigh.",
                fix="Give two or more, such as world:helpful,world:harmless; the method single trains on one of them.",
            )
        return tuple(map(str, parse_objectives(value)))


def preference_of(config: FirmConfig, objectives: Sequence[str]) -> tuple[float, ...]:
    """p, a share for each objective: equal ones, unless the configuration says otherwise.

    Args:
        config: With or without a preference.
        objectives: The names of the objectives.

    Raises:
        ConfigError: If there is one objective alone, or the preference has another number of shares.
    """
    count = len(objectives)
    if count < 2:
        raise ConfigError(
            f"FIRM weighs several objectives, and there is {count or 'none'}{': ' if count else ''}"
            f"{', '.join(objectives)}.",
            fix="Give two or more, such as world:helpful,world:harmless.",
            where="configuration key 'firm.objectives'",
        )
    if config.preference is None:
        return (1 / count,) * count
    if len(config.preference) != count:
        raise ConfigError(
            f"The preference has {len(config.preference)} shares, and there are {count} objectives: "
            f"{', '.join(objectives)}.",
            fix="Give one share for each, in this order.",
            where="configuration key 'firm.preference'",
        )
    return config.preference


def single_objective(preference: Sequence[float], objectives: Sequence[str]) -> int:
    """Which objective the method ``single`` trains on: the one with the largest share.

    Raises:
        ConfigError: If several have it.
    """
    largest = [place for place, share in enumerate(preference) if share == max(preference)]
    if len(largest) > 1:
        chosen = ",".join("1" if place == 0 else "0" for place in range(len(objectives)))
        raise ConfigError(
            "The method single trains on one objective, the one with the largest share, and "
            f"{', '.join(objectives[place] for place in largest)} share it.",
            fix=f"For {objectives[0]}, give firm.preference={chosen}.",
            where="configuration key 'firm.preference'",
        )
    return largest[0]
