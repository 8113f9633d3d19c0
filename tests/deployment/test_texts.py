"""A deployment whose users train a language model, on nodes in this process."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedvpa.alignment.federated_job import FederatedJob
from fedvpa.api.generate import generate
from fedvpa.api.report import report
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.data.client_pairs import ClientPairs
from fedvpa.data.load import load
from fedvpa.data.partition import partition
from fedvpa.models.locate import locate
from fedvpa.policy.adapters import snapshot
from fedvpa.runs.config import RunConfig, read_config, with_overrides
from fedvpa.runs.policy_task import task_of_config

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from flwr.app import Message, MessageType, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedvpa.api.export import export_flower
from fedvpa.deployment import server as deployment
from fedvpa.deployment.node import load_node
from fedvpa.engines.flower.client import Node, NodeError
from fedvpa.engines.flower.roster import gather
from flower_processes import write_pairs
from here_grid import context, task
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


@pytest.fixture(scope="module")
def finished(app: Path) -> Path:
    """What the server of that app leaves."""
    with task():
        serve(TextGrid({number: node(app, number) for number in (0, 1)}), app, app / "out")
    return app / "out"


def config_of(app: Path) -> RunConfig:
    return read_config(app / "app" / "fedvpa_app" / "run.yaml")


def node(app: Path, number: int, model: str = "") -> Node:
    load_node.cache_clear()  # each node is a process of its own
    run, pairs = app / "app" / "fedvpa_app" / "run.yaml", app / f"node{number}" / "pairs.jsonl"
    return load_node(str(run), str(pairs), "", model, "feddpo")


def serve(grid: TextGrid, app: Path, out: Path, *overrides: str) -> None:
    given = {"out": str(out), "nodes": 2, "deadline": 1.0, "quorum": 0.5}
    deployment.serve(grid, with_overrides(config_of(app), overrides), given, "feddpo")


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "policy" / "history.jsonl").read_text().splitlines()]


def adapter(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "policy" / "adapter_model.safetensors")


@pytest.mark.equivalence
def test_a_deployment_leaves_the_policy_that_one_machine_trains(app: Path, finished: Path):
    data = {"source": "table", "path": str(app / "all.jsonl")}
    config = RunConfig.parse(config_of(app).model_dump() | {"data": data})
    table = load(config.data)
    pairs = ClientPairs(table, partition(table, config.partition, config.seed)).policy_training()
    job = FederatedJob("feddpo", task_of_config(config), pairs)
    trained = list(job.run())
    policy, _ = job.finish()
    here = {name.removeprefix("model.").replace(".default", ""): leaf for name, leaf in snapshot(policy).items()}
    there = adapter(finished)
    assert there.keys() == here.keys()
    for name, leaf in here.items():
        torch.testing.assert_close(there[name], leaf, rtol=1e-5, atol=1e-5)
    assert [line["cohort"] for line in lines(finished)] == [line["cohort"] for line in trained]
    assert not any(line["dropped"] or line["rejected"] for line in lines(finished))


@pytest.mark.end_to_end
def test_the_server_leaves_a_run_directory_from_which_one_generates(finished: Path):
    metrics = json.loads((finished / "policy" / "metrics.json").read_text())
    notes = metrics["policies"][""]
    assert (metrics["method"], notes["rounds"], notes["averaging"]) == ("feddpo", 2, "avg")
    assert (notes["clients"], notes["nodes"], notes["users_left_out"]) == (3, 2, 0)
    assert "stayed on their own machines" in (finished / "policy" / "README.md").read_text()
    assert not (finished / "clients").exists()
    assert generate(finished, ["how do i plan a picnic ?"], max_new_tokens=4).answers[0].response
    page = report(finished).page.read_text()
    assert "export flower APP --method feddpo" in page


@pytest.mark.equivalence
def test_a_server_that_is_stopped_and_started_again_leaves_the_same_policy(
    app: Path, finished: Path, tmp_path: Path, capsys
):
    class Stops(TextGrid):
        def push_messages(self, messages):
            if self.sent >= 4:  # two introductions and the first round
                raise KeyboardInterrupt
            return super().push_messages(messages)

    nodes, out = {number: node(app, number) for number in (0, 1)}, tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        serve(Stops(nodes), app, out)
    assert len(lines(out)) == 1
    assert "2 of 2" not in capsys.readouterr().err
    with pytest.raises(RunError, match=r"was made with .*policy\.lora_rank.*Choose another out"):
        serve(TextGrid(nodes), app, out, "policy.lora_rank=3")
    serve(TextGrid(nodes), app, out)
    assert "resuming at round 1" in capsys.readouterr().err
    assert all(torch.equal(leaf, adapter(out)[name]) for name, leaf in adapter(finished).items())
    assert [line["cohort"] for line in lines(out)] == [line["cohort"] for line in lines(finished)]


@pytest.mark.unit
def test_a_node_without_the_model_says_so_in_its_log_and_takes_no_part(app: Path, tmp_path: Path, capsys):
    program = runpy.run_path(str(app / "app" / "fedvpa_app" / "client_app.py"))["app"]
    assert isinstance(program, ClientApp)
    here = context(1)
    missing = tmp_path / "models" / "gone"
    here.node_config = UserConfig({"data-path": str(app / "node1" / "pairs.jsonl"), "model-path": str(missing)})
    asked = Message(RecordDict(), dst_node_id=1, message_type=MessageType.QUERY)
    with pytest.raises(NodeError, match=r"cannot go on \(ModelError\)") as told:
        program(asked, here)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fedvpa: ")
    assert str(missing) in line
    assert "model-path" in line
    assert str(missing) not in str(told.value), "the server is not told paths"


@pytest.mark.unit
def test_a_node_whose_model_differs_is_refused_with_one_message(app: Path, tmp_path: Path, capsys):
    other = Path(shutil.copytree(locate("bundled").folder, tmp_path / "other"))
    shape = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**shape, "note": "another model"}))
    same = Path(shutil.copytree(locate("bundled").folder, tmp_path / "same"))
    grid = TextGrid({0: node(app, 0, str(same)), 1: node(app, 1, str(other))})
    # One of two has each, and the server's counts.
    for model, stays in ((same, 0), (other, 1)):
        roster = gather(grid, 2, 1.0, 0.5, locate(str(model)).content())
        assert list(roster.introductions) == [stays]
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("a node does not take part: its language model is another one: model sha256:")
    assert {name: roster.size(name) for name in roster.client_ids} == {
        "user-00001": len(node(app, 1).holder.pairs["user-00001"])
    }


@pytest.mark.unit
def test_only_what_can_be_deployed_is_exported(app: Path, tmp_path: Path):
    assert isinstance(runpy.run_path(str(app / "app" / "fedvpa_app" / "server_app.py"))["app"], ServerApp)
    config = read_config(None, ())
    with pytest.raises(ConfigError, match="There is no policy method 'fedpo'"):
        export_flower(config, tmp_path / "app", method="fedpo")
    with pytest.raises(ConfigError, match="several objectives, and there is none"):
        export_flower(config, tmp_path / "app", method="firm")
    several = read_config(None, ("firm.objectives=selector:0,selector:1",))
    with pytest.raises(ConfigError, match="'firm' reads a run's selector"):
        export_flower(several, tmp_path / "app", method="firm")
    with pytest.raises(ConfigError, match=r"the clients of 'feddpo' train a policy.*export flower"):
        read_config(None, ("method=feddpo",))
    assert not (tmp_path / "app").exists()
    export_flower(read_config(None, ("firm.objectives=world:helpful,world:harmless",)), tmp_path / "app", method="firm")
    export_flower(config, tmp_path / "other", method="fedvpl")
    assert read_config(tmp_path / "other" / "fedvpa_app" / "run.yaml").method == "fedvpl"
    assert "policy_method" not in (tmp_path / "other" / "fedvpa_app" / "client_app.py").read_text()
