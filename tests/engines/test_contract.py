"""A method from outside the package: one file, its own state, update and private state, on the engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import make_federation
from fedvpa.algorithms.base import Algorithm, Broadcast, ClientUpdate, CohortUpdate, FeatureSetting, Plain
from fedvpa.algorithms.client.draws import Draws, draw
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.server.validation import Bounds, Expected
from fedvpa.core.errors import ConfigError, TrainingError
from fedvpa.core.frozen import to_tensors
from fedvpa.core.tree import Tree
from fedvpa.engines.checkpoint import load_checkpoint, save_checkpoint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.selector.pairs import Pairs
from tests_shared import config

UNLIMITED = config(server={"clip_norm": None, "max_weight": None})
"""So that a mean is a mean: otherwise changes are clipped and weights cut."""


@dataclass(frozen=True)
class MeanState:
    """What the server of ``MeanDifference`` knows."""

    params: Tree
    round: int = 0
    counted: bool = False
    heard: Mapping[str, Tree] = field(default_factory=dict)


@dataclass(frozen=True)
class MeanDifference(Plain):
    """The mean of chosen − rejected. In odd rounds everybody is asked a second time, and says how often it was."""

    config: MethodConfig
    name: str = "mean_difference"
    reads_groups: bool = False
    rounds: int = 4
    state_type: type[MeanState] = MeanState

    def init(self, setting: FeatureSetting, seed: int) -> MeanState:
        return MeanState({"mean": torch.zeros(setting.dimension)})

    def asks_everyone(self, state: MeanState) -> bool:
        return state.counted

    def broadcast(self, state: MeanState, client_ids: Sequence[str]) -> Broadcast:
        return Broadcast({"params.mean": state.params["mean"]}, {}, state.round)

    def expected(self, state: MeanState) -> Expected:
        size = tuple(state.params["mean"].shape)
        return Expected({"mean": size}, {}, {"times": Bounds((), 0.0, 100.0)})

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> Draws:
        return draw(seed, broadcast.round, client_id, size, self.config.local)

    def load_private(self, private: Tree, received: Tree) -> Tree:
        return private or {"times": torch.zeros(())}

    def store_private(self, private: Tree, tensors: Tree, received: Tree) -> Tree:
        return tensors

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        change = (held.delta * held.weight.unsqueeze(-1)).sum(-2) - held.count.unsqueeze(-1) * received["params.mean"]
        times = private["times"] + 1
        return ClientUpdate({"weight": held.count, "delta.mean": change}, {"times": times}), {"times": times}

    def server_update(self, state: MeanState, update: CohortUpdate) -> tuple[MeanState, dict[str, float]]:
        if state.round % 2 and not state.counted:
            return replace(state, counted=True), {"first": 1.0}
        mean = state.params["mean"] + update.sums["delta.mean"] / update.sums["weight"]
        return MeanState({"mean": mean}, state.round + 1, heard={**state.heard, **update.own}), {}


def train(engine: EngineConfig, algorithm: Algorithm[Any, Any] | None = None, state: TrainState | None = None, **more):
    algorithm, federation = algorithm or MeanDifference(UNLIMITED), make_federation()
    return list(rounds(algorithm, federation, engine, 3, state or start(algorithm, federation, 3), **more))


@pytest.mark.equivalence
@pytest.mark.parametrize("name", ["loop", "vectorised"])
def test_a_method_of_ones_own_runs_on_the_engines_and_is_resumed(name: str, tmp_path: Path):
    engine = EngineConfig(name=name, cohort=3, workers=1)
    found = train(engine)
    federation = make_federation()
    whole = torch.cat([federation.held(client).delta for client in federation.client_ids])
    state = found[-1][0]
    torch.testing.assert_close(state.server.params["mean"], whole.mean(0))
    assert [len(line["cohort"]) for _, line in found] == [3] * 4
    assert [line["losses"] for _, line in found] == [{}, {"first": 1.0}, {}, {"first": 1.0}]
    asked = {client: float(own["times"]) for client, own in state.private.items()}
    assert set(asked) == set(federation.client_ids), "everybody was asked"
    assert sum(asked.values()) == 4 * 3 + 2 * len(federation.client_ids)
    idle = 1 + ("client-3" in found[1][1]["cohort"])  # has no pair, and its change of 0 travels as its shape
    updates = 3 + len(federation.client_ids)
    assert found[1][1]["uplink_bytes"] == updates * (4 * whole.shape[1] + 8) - idle * (4 * whole.shape[1] - 8)
    save_checkpoint(tmp_path / "last.safetensors", found[1][0], {})
    again = train(engine, state=load_checkpoint(tmp_path / "last.safetensors", MeanState)[0])
    assert len(again) == 2
    one, two = to_tensors(state.server), to_tensors(again[-1][0].server)
    assert one.keys() == two.keys()
    assert all(torch.equal(leaf, two[key]) for key, leaf in one.items())


@pytest.mark.unit
@pytest.mark.parametrize("name", ["loop", "vectorised"])
def test_one_hook_stands_between_each_client_and_the_sum(name: str):
    seen = []

    def doubled(update: ClientUpdate, round_: int, client_id: str) -> ClientUpdate:
        seen.append((round_, client_id))
        return replace(update, sums={**update.sums, "delta.mean": 2 * update.sums["delta.mean"]})

    algorithm = replace(MeanDifference(UNLIMITED), rounds=1)
    engine = EngineConfig(name=name, cohort=3, workers=1)
    plain, hooked = train(engine, algorithm), train(engine, algorithm, transform=doubled)
    assert seen == [(0, client) for client in plain[0][1]["cohort"]]
    torch.testing.assert_close(hooked[0][0].server.params["mean"], 2 * plain[0][0].server.params["mean"])


@pytest.mark.unit
def test_a_round_that_never_ends_is_an_error():
    class Endless(MeanDifference):
        def server_update(self, state: MeanState, update: CohortUpdate) -> tuple[MeanState, dict[str, float]]:
            return state, {}

    with pytest.raises(TrainingError, match="mean_difference asks for ever"):
        train(EngineConfig(name="loop", cohort=2), Endless(config()))


@pytest.mark.unit
def test_vectorised_says_why_it_runs_no_language_model():
    with pytest.raises(ConfigError, match=r"cannot run 'mean_difference'.*one at a time.*Use loop or flower"):
        train(EngineConfig(name="vectorised"), type("Texts", (MeanDifference,), {"holds": "texts"})(config()))
