"""A deployment whose nodes add the noise, in this process: what the server has, and what a round that is lost costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import make_federation
from fedvpa.algorithms.registry import make
from fedvpa.core.errors import ConfigError, FedvpaError
from fedvpa.data.partition import Partition
from fedvpa.engines.federation import Federation
from fedvpa.runs.config import RunConfig, read_config

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.api.export import export_flower
from fedvpa.deployment import server as deployment
from fedvpa.deployment.noise import check_deployed
from fedvpa.engines.flower.client import Node
from fedvpa.engines.flower.devices import OnDisk
from fedvpa.engines.flower.secure_records import UNMASK
from here_grid import SETTING, HereGrid, given, task

FIXED = SETTING.model_dump()
VALUES = {
    **FIXED,
    "server": {**FIXED["server"], "rounds": 2},
    "selector": {**FIXED["selector"], "rotation": "none"},
    "engine": {"cohort": 5, "workers": 1, "secure_aggregation": True},
    "seed": 5,
    "method": "fedem",
    "privacy": {"noise_multiplier": 0.8, "noise": "clients"},
}
CONFIG = RunConfig.parse(VALUES)


@pytest.fixture(autouse=True)
def _task():
    with task():
        yield


class Three(HereGrid):
    """Three nodes of two clients each; the server is stopped when it has read so many sums."""

    def __init__(self, folder: Path, stop: int = 9999) -> None:
        super().__init__(folder, method="fedem")
        whole, reads = make_federation(), self.nodes[0].reads
        self.stop, self.kinds, self.sent_up = stop, list[str](), list[object]()
        self.nodes = {
            number: Node(
                make("fedem", SETTING),
                Federation(whole.store, Partition(whole.partition.clients[number::3]), whole.scaling, whole.weights),
                OnDisk(folder / str(number)),
                reads=reads,
                private=True,
                adds_noise=True,
            )
            for number in range(3)
        }

    def _push(self, message):
        name = super()._push(message)
        self.kinds.append(message.metadata.message_type)
        if name in self.replies and not self.replies[name].has_error():
            self.sent_up.append(self.replies[name].content)
        if self.kinds.count(f"query.{UNMASK}") == 3 * self.stop:
            raise KeyboardInterrupt  # all shares are there, and the round is not kept
        return name


@pytest.mark.equivalence
def test_a_round_that_was_unmasked_and_is_run_again_counts_twice(tmp_path: Path, capsys):
    pytest.importorskip("dp_accounting", reason="fedvpa[privacy] is not installed")
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        deployment.serve(Three(tmp_path / "a", stop=1), CONFIG, given(out, nodes=3))
    key = (out / "checkpoints" / "privacy.key").read_bytes()
    again = Three(tmp_path / "a")
    deployment.serve(again, CONFIG, given(out, nodes=3))
    assert (out / "checkpoints" / "privacy.key").read_bytes() == key, "it goes on, from before its first round too"
    assert (out / "checkpoints" / "unmasked.txt").read_text().split() == ["0", "0", "1"]
    found = json.loads((out / "metrics.json").read_text())["privacy"]
    assert (found["noise"], found["rounds"], found["unmasked"], found["seeded"]) == ("clients", 2, 3, False)
    lines = [json.loads(line)["privacy"] for line in (out / "history.jsonl").read_text().splitlines()]
    assert lines[-1]["epsilon_released"] == pytest.approx(found["epsilon_released"], rel=1e-3)
    assert lines[-1]["epsilon_server"] == pytest.approx(found["epsilon_server"])
    assert "1 of the sums belong to rounds that were run again" in capsys.readouterr().err
    trained = [one for one in again.sent_up if "masked" in one.array_records]
    assert trained
    assert not any("sums" in one.array_records or "own" in one.array_records for one in again.sent_up)


@pytest.mark.unit
def test_nodes_that_add_noise_train_for_no_server_that_adds_it(tmp_path: Path):
    config = RunConfig.parse({**VALUES, "privacy": {"noise_multiplier": 0.8}})
    with pytest.raises(FedvpaError, match=r"without the noise of nodes, and the run has privacy\.noise=clients"):
        deployment.serve(Three(tmp_path / "a"), config, given(tmp_path / "out", nodes=3))


@pytest.mark.unit
def test_what_does_not_fit_is_not_exported_and_not_served(tmp_path: Path):
    noise = ["privacy.noise_multiplier=1", "privacy.noise=clients"]
    secure = [*noise, "engine.secure_aggregation=true"]
    for overrides, reason in (
        (noise, "without secure aggregation, and one node's share does not hide its update"),
        ([*secure, "server.rule=median"], "compares single updates"),
        ([*secure, "engine.codec=int8"], "rounds single updates"),
        ([*secure, "privacy.seeded=true"], "every node of a deployment has the seed"),
    ):
        config = read_config(None, overrides)
        with pytest.raises(ConfigError, match=reason):
            export_flower(config, tmp_path / "app", out=tmp_path / "out", nodes=3)
    with pytest.raises(ConfigError, match="without secure aggregation"):
        check_deployed(read_config(None, noise))
    with pytest.raises(ConfigError, match=r"honest_share"):
        read_config(None, [*secure, "privacy.honest_share=1.5"])
    with pytest.raises(ConfigError, match="it is not said how much"):
        read_config(None, ["privacy.noise=clients"])
    app = export_flower(read_config(None, secure), tmp_path / "app", out=tmp_path / "out", nodes=3).app
    assert read_config(app / "fedvpa_app" / "run.yaml").privacy.in_shares
