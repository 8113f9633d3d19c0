"""The exported app on real processes, on loopback: TLS, node keys, and what can go wrong."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedvpa.algorithms.registry import make
from fedvpa.core.tree import Tree
from fedvpa.data.partition import Partition
from fedvpa.engines.sampling import draw_cohort, identities
from fedvpa.features.standardise import Standardiser
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.fit import fit
from fedvpa.runs.prepare import prepare
from fedvpa.selector.selector import Selector
from tests_shared import replay

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.api.export import export_flower
from fedvpa.deployment.keys import make_keys
from flower_processes import Processes, history, write_pairs

COMPARED = ("head.base", "head.personal", "prototypes")
# Features of other batches differ in the last bit of fp16, so equality is not exact.
CLOSE = {"rtol": 1e-3, "atol": 1e-5}


def add_small_user(path: Path) -> None:
    """A further user of a node, with a single pair: none of its own is left where pairs are held out."""
    first = json.loads(path.read_text().splitlines()[0])
    with path.open("a") as file:
        file.write(json.dumps({**first, "user_id": "small"}) + "\n")


def together(app: Path, folder: Path) -> RunConfig:
    """The run of an app, with all pairs on one machine."""
    return read_config(app / "fedvpa_app" / "run.yaml", (f"data.path={folder / 'all.jsonl'}", "engine.workers=1"))


@pytest.mark.end_to_end
def test_a_federation_on_real_processes_learns_what_one_machine_learns(tmp_path: Path) -> None:
    paths = write_pairs(tmp_path, users=7, nodes=3)
    add_small_user(paths[0])
    app, out = tmp_path / "app", tmp_path / "out"
    config = read_config(None, ("server.rounds=1", "engine.cohort=5", "local.steps=2", "selector.latent=5"))
    export_flower(config, app, out=out, nodes=3, deadline=300)
    make_keys(tmp_path / "other", host="127.0.0.1", nodes=1)
    with Processes(tmp_path, nodes=4) as federation:
        federation.superlink()
        federation.register(0, 1, 2)
        for number, path in enumerate(paths):
            federation.node(number, path)
        federation.node(3, paths[0], name="unknown-key")
        federation.node(0, paths[0], name="wrong-ca", ca=tmp_path / "other" / "ca.crt")
        federation.flwr("run", str(app), "here", "--stream")
        # Were one of these two let in, its users would be on two nodes, and the server would have refused to start.
        for name in ("unknown-key", "wrong-ca"):
            assert "attempt failed" in federation.log(name), f"a node with {name} is refused"
        assert "left out, with too few pairs to learn from: 'small'" in federation.log("node0")
        assert "1 further users are left out by their nodes" in federation.log("flwr-run")
        assert "'small'" not in federation.log("flwr-run"), "the server is not told who"
    lines = history(out)
    assert [line["round"] for line in lines] == [0], federation.said()
    assert not any(line["dropped"] or line["rejected"] for line in lines)
    config = together(app, tmp_path)
    here, there = fit(config, prepare(config)).selector, Selector.from_pretrained(out / "selector")
    for name in COMPARED:
        torch.testing.assert_close(there.params[name], here.params[name], **CLOSE)
    assert len(list((tmp_path / "state0").glob("*.safetensors"))) > 0, "private state is on the node's disk"


@pytest.mark.end_to_end
def test_a_node_comes_late_another_dies_and_the_server_is_killed(tmp_path: Path) -> None:
    paths = write_pairs(tmp_path, users=5, nodes=3)
    hosted = [("user-00000", "user-00003"), ("user-00001", "user-00004"), ("user-00002",)]
    app, out = tmp_path / "app", tmp_path / "out"
    config = read_config(None, ("server.rounds=4", "engine.cohort=5", "local.steps=2", "selector.latent=5"))
    export_flower(config, app, out=out, nodes=2, deadline=60)
    with Processes(tmp_path, nodes=3) as federation:
        federation.superlink()
        federation.register(0, 1, 2)
        federation.node(0, paths[0])
        federation.node(1, paths[1])
        federation.start("server", "flwr", "run", str(app), "here", "--stream")
        federation.wait_for(lambda: "4 clients on 2 nodes" in federation.log("server"), "two nodes are there")
        federation.node(2, paths[2])
        federation.wait_for(lambda: "joined: user-00002" in federation.log("server"), "the late node joins")
        done = len(history(out))
        federation.wait_for(lambda: len(history(out)) > done, "a round ends")
        killed = len(history(out))
        federation.kill("node1")
        federation.wait_for(lambda: len(history(out)) > killed, "the next round ends without the node")
        federation.kill("superlink")
        federation.kill("server")
        federation.superlink()
        federation.flwr("run", str(app), "here", "--stream")
        assert f"resuming {out} at round {killed + 1}" in federation.log("flwr-run")
    lines = history(out)
    assert [line["round"] for line in lines] == [0, 1, 2, 3], federation.said()
    joined = next(line["round"] for line in lines if set(hosted[2]) & set(line["cohort"]))
    assert 0 < joined <= killed < 3
    for line in lines:
        before, after = line["round"] < joined, line["round"] > killed
        there = sorted(hosted[0] + (() if after else hosted[1]) + (() if before else hosted[2]))
        drawn = draw_cohort(there, identities(there), 5, config.seed, line["round"])
        assert line["cohort"] == drawn, "drawn by id from those who had joined when the run was started"
        assert line["dropped"] == (sorted(hosted[1]) if line["round"] == killed else []), federation.said()
    there = Selector.from_pretrained(out / "selector")
    here = alone(together(app, tmp_path), hosted[0] + hosted[1], lines)
    for name in COMPARED:
        torch.testing.assert_close(there.params[name], here[name], **CLOSE)


def alone(config: RunConfig, first: tuple[str, ...], lines: list[dict]) -> Tree:
    """The weights of the same history on one machine, with features scaled by those who were there at the start."""
    whole = prepare(config).federation
    start = Partition(tuple(client for client in whole.partition.clients if client.client_id in first))
    standardiser = Standardiser.from_moments(replace(whole, partition=start).moments)
    scaled = replace(whole, scaling=replace(whole.scaling, standardiser=standardiser))
    return replay(make(config.method, config.method_config), scaled, config.seed, lines).final
