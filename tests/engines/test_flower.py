"""Flower's simulation gives what the vectorised engine gives, also when it is stopped and started again."""

import importlib.util
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from fedvpa.algorithms.base import Broadcast, CohortUpdate
from fedvpa.algorithms.server.mixture_state import MixtureState
from fedvpa.algorithms.server.robust import Part
from fedvpa.core.errors import ConfigError, FedvpaError
from fedvpa.engines.checkpoint import load_checkpoint
from fedvpa.engines.flower import simulation

RUN = Path(__file__).resolve().parent / "flower_run.py"
spec = importlib.util.spec_from_file_location("flower_run", RUN)
assert spec is not None
assert spec.loader is not None
flower_run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(flower_run)
train = flower_run.train


@pytest.mark.equivalence
def test_flower_equals_vectorised_with_unequal_empty_and_silent_clients_and_a_restart(tmp_path):
    pytest.importorskip("ray", reason="fedvpa[flower] is not installed")
    want, lines = train("vectorised")
    # In a process of its own: Ray leaves children behind that Python warns about.
    subprocess.run([sys.executable, str(RUN), str(tmp_path)], check=True, timeout=900, capture_output=True)
    got, meta = load_checkpoint(tmp_path / "last.safetensors", MixtureState)
    assert any(line["dropped"] for line in lines)
    assert any("client-3" in line["cohort"] for line in lines), "the client without pairs takes part"
    for one, two in zip(lines, meta["lines"], strict=True):
        assert {**one, "losses": 0} == {**two, "losses": 0}
        assert one["losses"] == pytest.approx(two["losses"], rel=1e-4, abs=1e-6)
    for name, leaf in want.server.final.items():
        torch.testing.assert_close(leaf, got.server.final[name], rtol=1e-5, atol=1e-6)
    for name, leaf in want.server.moments.items():
        torch.testing.assert_close(leaf, got.server.moments[name], rtol=1e-5, atol=1e-6)
    for name, own in want.private.items():
        assert own.keys() == got.private[name].keys()
        for part, leaf in own.items():
            torch.testing.assert_close(leaf, got.private[name][part], rtol=1e-5, atol=1e-6)


@pytest.mark.unit
def test_records_carry_tensors_ids_and_private_state_and_count_only_traffic():
    records = pytest.importorskip("fedvpa.engines.flower.records", reason="fedvpa[flower] is not installed")
    shared = {"params.w": torch.randn(3, 5), "gain": torch.tensor(2.5), "prior.means": torch.zeros(0, 7)}
    own = {"label": torch.randn(2, 2)}
    private = {"ä/b": {"logits": torch.tensor([0.1 + 0.2]), "mean": torch.randn(7)}, "new": {}}
    request = records.Request(Broadcast(shared, own, 11), ("ä/b", "new"), 13, True, "fp32", None, private)
    packed = records.pack_request(request)
    again = records.unpack_request(packed)
    assert (again.clients, again.seed, again.broadcast.round) == (("ä/b", "new"), 13, 11)
    for name, leaf in shared.items():
        assert torch.equal(again.broadcast.shared[name], leaf)
    assert torch.equal(again.broadcast.own["label"], own["label"])
    assert torch.equal(again.private["ä/b"]["logits"], private["ä/b"]["logits"])
    deployed = records.pack_request(records.Request(request.broadcast, request.clients, 13, False, "fp32", None, None))
    assert records.traffic(deployed) == records.traffic(packed) > 0
    assert not [name for name in deployed if "device" in name]

    posterior = {"mean": torch.randn(7), "log_var": torch.randn(7)}
    first = Part(("ä/b",), CohortUpdate({"weight": torch.tensor(4.0)}))
    second = Part(("new",), CohortUpdate({"weight": torch.tensor(9.0)}, {"new": posterior}))
    got, kept = records.unpack_reply(
        records.pack_reply([first, second], request.clients, "fp32", private), request.clients, "fp32"
    )
    assert [(part.clients, float(part.update.sums["weight"])) for part in got] == [(("ä/b",), 4.0), (("new",), 9.0)]
    assert torch.equal(got[1].update.own["new"]["log_var"], posterior["log_var"])
    assert got[0].update.own == {}
    assert list(kept) == list(private)
    assert torch.equal(kept["ä/b"]["logits"], private["ä/b"]["logits"])
    packed = records.pack_reply([first], request.clients, "fp32", None)
    alone = records.unpack_reply(packed, request.clients, "fp32")
    assert alone[1] == {}, "a deployed node's private state stays where it is"


@pytest.mark.unit
def test_without_flower_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(simulation, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs flwr and ray.*pip install 'fedvpa\[flower\]'"):
        simulation.require_flower()


@pytest.fixture
def no_ray(monkeypatch):
    """Flower's simulation without Ray's processes."""
    ray = pytest.importorskip("ray", reason="fedvpa[flower] is not installed")
    for name in ("init", "put", "shutdown"):
        monkeypatch.setattr(ray, name, lambda *_, **__: None)
    return ray


@pytest.mark.unit
def test_ray_that_does_not_start_is_said_in_one_line(no_ray, monkeypatch):
    def fails(**_):
        raise RuntimeError("The current node timed out during startup.\nThis could happen because\nof many things.")

    monkeypatch.setattr(no_ray, "init", fails)
    with pytest.raises(
        FedvpaError, match=r"Ray.*did not start \(The current node timed.*engine\.name=vectorised"
    ) as said:
        train("flower")
    assert "\n" not in str(said.value)


@pytest.mark.unit
@pytest.mark.parametrize(("ends", "reason"), [(True, "it ended by itself"), (False, "no actor could be made")])
def test_a_simulation_that_ends_too_early_is_said_in_one_line(no_ray, ends: bool, reason: str, monkeypatch):
    def run(*_, **__):
        if not ends:
            raise RuntimeError("no actor could be made\nTraceback of a worker")

    monkeypatch.setattr("flwr.simulation.run_simulation", run)
    with pytest.raises(FedvpaError, match=rf"Flower's simulation has failed: {reason}\. Go on .* --resume"):
        train("flower")


@pytest.mark.unit
def test_a_simulation_that_fails_in_mid_round_is_not_waited_for(no_ray, monkeypatch):
    """Its nodes answer no more; the deadline is ten minutes."""

    class Grid:
        asked = threading.Event()

        def get_node_ids(self):
            return list(range(6))

        def push_messages(self, messages):
            self.asked.set()
            return [str(message.metadata.dst_node_id) for message in messages]

        def pull_messages(self, message_ids):
            return []

    def run(server, *_, **__):
        threading.Thread(target=server._main, args=(Grid(), None), daemon=True).start()
        Grid.asked.wait(10)
        raise RuntimeError("the object store is lost")

    monkeypatch.setattr("flwr.simulation.run_simulation", run)
    from here_grid import task

    with task(), pytest.raises(FedvpaError, match="has failed: the object store is lost"):
        train("flower")
