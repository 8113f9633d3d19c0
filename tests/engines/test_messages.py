"""What messages hold, on every engine: nothing of another client on the way down, and additive sums on the way up.

A posterior is in no message down and not among what the server keeps. Up, the sums of one client alone tell its
posterior (r·μ, with r near 1), so the server must not see them alone: that is for secure aggregation or noise, and is
no claim of these tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import make_federation
from fedvpa.algorithms.base import Broadcast, ClientUpdate
from fedvpa.algorithms.fedvpa_gp import FedVPAGP
from fedvpa.algorithms.registry import METHODS, make
from fedvpa.core.frozen import to_tensors
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.features.standardise import Standardiser
from fedvpa.selector.scaling import Scaling
from tests_shared import config

ROUNDS = 4
SENT = {"log_prior", "gain", "spread", "temperature", "z_scale", "prior.means", "prior.log_vars", "prior.keys"}
"""What FedVPA-GP sends to all beside weights and limits: as many components as there are prototypes."""


def setting(prior: str):
    return config(server={"rounds": ROUNDS}, variational={"prior": prior, "warmup": 0.0})


@pytest.fixture
def posteriors(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """The mean of every posterior that a client computes for a report, as bytes; variances are often at their cap."""
    found: set[bytes] = set()
    plain = FedVPAGP._report

    def recorded(self, before, received, data):
        statistics, posterior = plain(self, before, received, data)
        rows = posterior["mean"][data.count > 0].reshape(-1, posterior["mean"].shape[-1])  # without pairs it is a bias
        found.update(row.numpy().tobytes() for row in rows)
        return statistics, posterior

    monkeypatch.setattr(FedVPAGP, "_report", recorded)
    return found


def in_one_process(engine: str, prior: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], TrainState]:
    """All tensors that come down, and the last state."""
    algorithm, federation, down = make("fedvpa_gp", setting(prior)), make_federation(), list[Tensor]()
    plain = FedVPAGP.broadcast

    def broadcast(self, state, client_ids) -> Broadcast:
        sent = plain(self, state, client_ids)
        down.extend([*sent.shared.values(), *sent.own.values()])
        assert prior == "posteriors" or not sent.own
        return sent

    def transform(update: ClientUpdate, round_: int, client_id: str) -> ClientUpdate:
        assert set(update.own) == ({"mean", "log_var"} if prior == "posteriors" else set())
        return update

    monkeypatch.setattr(FedVPAGP, "broadcast", broadcast)
    engine_config = EngineConfig(name=engine, cohort=5, workers=1)
    *_, (state, _) = rounds(
        algorithm, federation, engine_config, 5, start(algorithm, federation, 5), transform=transform
    )
    return down, state


def rows_held(tensors: list[Tensor], secrets: set[bytes]) -> int:
    content = [leaf.contiguous().numpy().tobytes() for leaf in tensors]
    return sum(any(secret in one for one in content) for secret in secrets)


@pytest.mark.unit
@pytest.mark.parametrize("engine", ["loop", "vectorised"])
def test_no_posterior_comes_down_nor_is_kept_unless_the_published_exchange_is_asked_for(
    engine: str, posteriors: set[bytes], monkeypatch: pytest.MonkeyPatch
):
    down, state = in_one_process(engine, "mixture", monkeypatch)
    assert len(posteriors) > 10
    kept = [*to_tensors(state.server).values(), *(leaf for own in state.private.values() for leaf in own.values())]
    assert rows_held(down, posteriors) == rows_held(kept, posteriors) == 0
    assert not state.server.posteriors
    assert not state.server.cohort


@pytest.mark.unit
def test_the_published_exchange_is_noticed(posteriors: set[bytes], monkeypatch: pytest.MonkeyPatch):
    down, state = in_one_process("loop", "posteriors", monkeypatch)
    assert rows_held(down, posteriors) > 10
    assert state.server.posteriors


@pytest.mark.unit
@pytest.mark.parametrize("method", METHODS.names())
def test_what_is_sent_to_all_has_these_names_and_does_not_grow_with_the_cohort(method: str):
    algorithm, federation = make(method, setting("mixture")), make_federation()
    reached = start(algorithm, federation, 5)
    if algorithm.rounds:
        *_, (reached, _) = rounds(algorithm, federation, EngineConfig(cohort=5, workers=1), 5, reached)
    ids = federation.client_ids
    one, two, other = (algorithm.broadcast(reached.server, some) for some in (ids[:1], ids[:5], ids[-1:]))
    assert {name: leaf.shape for name, leaf in one.shared.items()} == {
        name: leaf.shape for name, leaf in two.shared.items()
    }
    assert all(torch.equal(leaf, other.shared[name]) for name, leaf in one.shared.items()), "whoever is asked"
    if method in ("fedem", "fedvpa_gp", "fedvpl"):
        assert {name for name in one.shared if not name.startswith("params.")} <= SENT
        assert not one.own
        assert not algorithm.expected(reached.server).own
    if method == "fedvpa_gp":
        assert one.shared["prior.means"].shape == (2, 5)
        assert one.shared["prior.keys"].tolist() == [0, 1], "an id of a component, and of no client"


@pytest.mark.unit
def test_messages_between_flowers_server_and_nodes_hold_no_posterior_and_no_id_of_another_node(
    posteriors: set[bytes], tmp_path: Path
):
    pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
    from fedvpa.engines.flower.roster import gather
    from fedvpa.engines.flower.server import GridCohort
    from here_grid import HereGrid, task

    said: list[tuple[int, str, Any]] = []

    class Recorded(HereGrid):
        def _push(self, message: Any) -> str:
            name = super()._push(message)
            node = message.metadata.dst_node_id
            said.extend([(node, "down", message.content), (node, "up", self.replies[name].content)])
            return name

    grid = Recorded(tmp_path, method="fedvpa_gp")
    with task():
        roster = gather(grid, 2, deadline=1.0)
        scaling = Scaling(Standardiser.from_moments(roster.moments), rms=True)
        run = GridCohort(grid, roster.hosts, False, 1.0, 0.2, "fp32", scaling, roster.refresh)
        algorithm = make("fedvpa_gp", setting("mixture"))
        list(rounds(algorithm, roster, EngineConfig(cohort=5, workers=1), 5, start(algorithm, roster, 5), run))
    ids = {number: set(node.holder.client_ids) for number, node in grid.nodes.items()}
    assert len(posteriors) > 10
    assert len(said) > 2 * ROUNDS
    for node, way, content in said:
        others = {f'"{name}"' for number, names in ids.items() if number != node for name in names}
        raw = [array.data for record in content.array_records.values() for array in record.values()]
        texts = [str(value) for record in content.config_records.values() for value in record.values()]
        assert way == "up" or not any(secret in one for one in raw for secret in posteriors)
        assert way == "down" or not content.array_records.get("own")
        assert not any(name in text for text in texts for name in others)
        assert "device" not in content
