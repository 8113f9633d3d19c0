"""Clients that hold texts and the bundled language model, small enough for a round in a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedvpa.algorithms.base import Algorithm
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.policy_method import PolicyTask
from fedvpa.algorithms.registry import POLICY_METHODS
from fedvpa.alignment.federated_job import fresh_policy
from fedvpa.data.schema import Pair
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.runner import CohortRunner
from fedvpa.engines.text_federation import TextFederation
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.features.config import FeatureConfig
from fedvpa.world.generate import generate_world
from policy_fixtures import world_config

SEED = 13
FIRM = {"rounds": 2, "steps": 1, "prompts": 2, "completions": 2, "max_new_tokens": 60, "lr": 1e-3}


def text_task() -> PolicyTask:
    """Two rounds of two local steps of FedDPO, or of one of FIRM."""
    feddpo = {"rounds": 2, "steps": 2, "batch": 2}
    # Limits that are known from the start, so that a node may send the sum over its users in the first round.
    limits = {"clip_norm": 10.0, "max_weight": 100.0}
    shape = {"lora_rank": 2, "lora_alpha": 4, "sft_weight": 0, "language_weight": 0}
    settings = world_config(**shape, feddpo=feddpo, clients=limits)
    config, features = MethodConfig.parse({"firm": FIRM}), FeatureConfig(model="bundled", device="cpu")
    return PolicyTask(settings, config, features, SEED, population="two-groups")


def text_pairs(users: int = 3) -> Mapping[str, Sequence[Pair]]:
    """Users of the bundled world with 4 pairs each, but for the last, who has one."""
    found: dict[str, list[Pair]] = {}
    for pair in generate_world("two-groups", users, 4, 3):
        found.setdefault(pair.user_id, []).append(Pair(pair.prompt, pair.chosen, pair.rejected, user_id=pair.user_id))
    last = max(found)
    return {**found, last: found[last][:1]}


@dataclass(frozen=True)
class Texts:
    """A method and its clients.

    Attributes:
        algorithm: The method.
        clients: Those of :func:`text_pairs`.
    """

    algorithm: Algorithm[Any, Any]
    clients: TextFederation[Any]

    @classmethod
    def of(cls, method: str) -> Texts:
        """Those of a method in ``POLICY_METHODS``."""
        task, entry = text_task(), POLICY_METHODS.get(method)
        policy = fresh_policy(task)
        held = entry.clients(task, policy, text_pairs(), strict=False)
        return cls(entry.algorithm(task), TextFederation.of(policy, held.data))

    def share(self, names: Sequence[str]) -> TextFederation[Any]:
        """Some of the clients, on a node of their own with a language model of its own."""
        packed = self.clients.packed()
        return replace(packed, data={name: packed.data[name] for name in names}).opened()

    def train(
        self, engine: EngineConfig, runner: CohortRunner | None = None
    ) -> tuple[list[TrainState], list[dict[str, Any]]]:
        """The states and the lines of history of both rounds."""
        begin = start(self.algorithm, self.clients, SEED)
        found = list(rounds(self.algorithm, self.clients, engine, SEED, begin, runner))
        return [state for state, _ in found], [{**line, "seconds": 0} for _, line in found]
