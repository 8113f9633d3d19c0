"""A federation of tiny policies with two objectives that count words, for FIRM and its yardsticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedvpa.algorithms.client.group_samples import Prompts
from fedvpa.algorithms.config import MethodConfig, ServerConfig
from fedvpa.algorithms.firm_config import FirmConfig
from fedvpa.data.schema import Text
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.text_federation import TextFederation
from fedvpa.engines.training import rounds, start
from fedvpa.policy.policy import Policy
from fedvpa.rewards.base import Score
from policy_fixtures import make_policy

SEED = 5
NAMES = ("world:helpful", "world:harmless")
"""Names that the configuration knows; the objectives of these tests score otherwise."""


@dataclass(frozen=True)
class CountsWords:
    """A word's number modulo something, summed over a response; its units differ from objective to objective."""

    name: str
    modulus: int
    units: float = 1.0

    def score(self, items: Sequence[tuple[Text, str]]) -> list[Score]:
        return [self.units * sum(int(word[1:]) % self.modulus for word in _words(text)) for _, text in items]


@dataclass(frozen=True)
class Constant:
    """The same for every response; without one for those that hold a certain word."""

    name: str
    unreadable: str = "none"

    def score(self, items: Sequence[tuple[Text, str]]) -> list[Score]:
        return ["unreadable" if self.unreadable in text.split() else 0.7 for _, text in items]


def _words(text: str) -> list[str]:
    return [word for word in text.split() if word[0] == "w"]


OBJECTIVES = (CountsWords(NAMES[0], 5), CountsWords(NAMES[1], 7, 100.0))


def firm_config(**values: Any) -> FirmConfig:
    small = {
        "objectives": NAMES,
        "completions": 3,
        "prompts": 2,
        "steps": 2,
        "rounds": 2,
        "cohort": 2,
        "optimizer": "sgd",
        "lr": 0.1,
        "max_new_tokens": 5,
    }
    return FirmConfig.parse({**small, **values})


def server(config: FirmConfig) -> MethodConfig:
    rules = ServerConfig(rounds=config.rounds, average_tail=0.0, clip_norm=None, max_weight=None)
    return MethodConfig(server=rules, firm=config)


def policy_of(folder: Path, *, noise: bool = True) -> Policy:
    return make_policy(folder, None, noise=noise)


def prompts_of(policy: Policy, texts: Sequence[str], objectives: Sequence[Any] = OBJECTIVES) -> Prompts:
    return Prompts.of(policy, texts, objectives)


def federation(policy: Policy, objectives: Sequence[Any] = OBJECTIVES) -> TextFederation[Prompts]:
    """Three clients with 3, 2 and no prompts."""
    texts = {"ann": ["w1 w2", "w3", "w4 w5 w6"], "bob": ["w7", "w8 w9"], "nobody": []}
    return TextFederation.of(policy, {name: prompts_of(policy, own, objectives) for name, own in texts.items()})


def train(algorithm: Any, clients: TextFederation[Prompts], cohort: int = 3) -> tuple[Any, list[dict[str, Any]]]:
    """The last state and the history."""
    engine = EngineConfig(name="loop", cohort=cohort)
    told = list(rounds(algorithm, clients, engine, SEED, start(algorithm, clients, SEED)))
    return told[-1][0].server, [line for _, line in told]


def flat(factors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([factors[name].flatten() for name in sorted(factors)])
