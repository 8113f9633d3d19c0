"""A deployment whose users train a language model, on nodes in this process."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedvpa.alignment.federated_job import FederatedJob
from fedvpa.data.client_pairs import ClientPairs
from fedvpa.data.load import load
from fedvpa.data.partition import partition
from fedvpa.policy.adapters import snapshot
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.policy_task import task_of_config

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.api.export import export_flower
from fedvpa.deployment import server as deployment
from fedvpa.deployment.node import load_node
from fedvpa.engines.flower.client import Node
from flower_processes import write_pairs
from here_grid import task
from text_grid import TextGrid

OVERRIDES = (
    "policy.lora_rank=2", "policy.lora_alpha=4", "policy.feddpo.rounds=2", "policy.feddpo.steps=1",
    "policy.feddpo.batch=2", "policy.feddpo.cohort=3", "policy.candidates.max_new_tokens=8",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _task():
    with task():
        yield


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported app, and the pairs of three users on two nodes beside it."""
    folder = tmp_path_factory.mktemp("texts")
    write_pairs(folder, users=3, nodes=2)
    export_flower(read_config(None, OVERRIDES), folder / "app", out=folder / "out", method="feddpo")
    return folder


def config_of(app: Path) -> RunConfig:
    return read_config(app / "app" / "fedvpa_app" / "run.yaml")


def node(app: Path, number: int, model: str = "") -> Node:
    load_node.cache_clear()  # each node is a process of its own
    run, pairs = app / "app" / "fedvpa_app" / "run.yaml", app / f"node{number}" / "pairs.jsonl"
    return load_node(str(run), str(pairs), "", model, "feddpo")


def serve(grid: TextGrid, app: Path, out: Path, **terms: object) -> None:
    given = {"out": str(out), "nodes": 2, "deadline": 1.0, "quorum": 0.5, **terms}
    deployment.serve(grid, config_of(app), given, "feddpo")


@pytest.mark.equivalence
def test_a_deployment_leaves_the_policy_that_one_machine_trains(app: Path, tmp_path: Path, capsys):
    grid, out = TextGrid({number: node(app, number) for number in (0, 1)}), tmp_path / "out"
    serve(grid, app, out)
    told = capsys.readouterr().err
    assert "3 clients on 2 nodes" in told
    config = RunConfig.parse(
        config_of(app).model_dump() | {"data": {"source": "table", "path": str(app / "all.jsonl")}}
    )
    table = load(config.data)
    pairs = ClientPairs(table, partition(table, config.partition, config.seed)).policy_training()
    job = FederatedJob("feddpo", task_of_config(config), pairs)
    lines = list(job.run())
    policy, _ = job.finish()
    written = load_file(out / "policy" / "adapter_model.safetensors")
    here = {name.removeprefix("model.").replace(".default", ""): leaf for name, leaf in snapshot(policy).items()}
    assert written.keys() == here.keys()
    for name, leaf in here.items():
        torch.testing.assert_close(written[name], leaf, rtol=1e-5, atol=1e-5)
    said = [json.loads(line) for line in (out / "policy" / "history.jsonl").read_text().splitlines()]
    assert [line["cohort"] for line in said] == [line["cohort"] for line in lines]
    metrics = json.loads((out / "policy" / "metrics.json").read_text())
    assert metrics["method"] == "feddpo"
    assert metrics["policies"][""]["rounds"] == 2
    assert (metrics["policies"][""]["clients"], metrics["policies"][""]["nodes"]) == (3, 2)
    from fedvpa.api.generate import generate

    assert generate(out, ["How do I sharpen a saw?"], max_new_tokens=4).answers[0].response
