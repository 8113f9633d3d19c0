"""The server of a deployment, on nodes in this process: stopped anywhere, it ends where it would have."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from conftest import make_federation
from fedvpa.core.errors import ConfigError, FedvpaError, RunError, TrainingError
from fedvpa.data.partition import Partition
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.selector.selector import Selector

httpx = pytest.importorskip("httpx", reason="fedvpa[flower] is not installed")
pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.deployment import server as deployment
from here_grid import SETTING, HereGrid, given, task

CONFIG = RunConfig.parse({**SETTING.model_dump(), "engine": {"cohort": 4, "workers": 1}, "seed": 5})


@pytest.fixture(autouse=True)
def _task():
    with task():
        yield


class Stops(HereGrid):
    """A grid that fails after so many messages: the server is stopped in mid-round."""

    def __init__(self, folder: Path, after: int, error: Exception) -> None:
        super().__init__(folder)
        self.after, self.error = after, error

    def push_messages(self, messages):
        if self.sent >= self.after:
            raise self.error
        return super().push_messages(messages)


def history(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [{**line, "seconds": 0} for line in lines]


@pytest.mark.equivalence
def test_a_server_that_is_stopped_and_started_again_ends_where_it_would_have(tmp_path: Path, capsys):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    deployment.serve(HereGrid(tmp_path / "a"), CONFIG, given(whole))
    with pytest.raises(KeyboardInterrupt):
        deployment.serve(Stops(tmp_path / "b", 8, KeyboardInterrupt()), CONFIG, given(halves))
    assert 0 < len(history(halves)) < 6
    # The last line may be lost, or be there without its checkpoint.
    with (halves / "history.jsonl").open("a") as log:
        log.write('{"round": 3, "los')
    capsys.readouterr()
    deployment.serve(HereGrid(tmp_path / "b"), CONFIG, given(halves))
    assert "resuming" in capsys.readouterr().err
    assert history(whole) == history(halves)
    one, two = (Selector.from_pretrained(out / "selector") for out in (whole, halves))
    for name, leaf in one.params.items():
        assert torch.equal(leaf, two.params[name]), name


@pytest.mark.unit
def test_a_run_directory_in_use_or_of_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    with pytest.raises(FedvpaError, match="2 of 3 nodes introduced themselves"):
        deployment.serve(HereGrid(tmp_path / "a"), CONFIG, given(out, nodes=3))
    assert not (out / "config.yaml").exists()
    monkeypatch.setattr("fedvpa.deployment.server.HANDOVER_SECONDS", 0.01)
    with FileLock(out / ".lock"), pytest.raises(RunError, match="another program writes to it"):
        deployment.serve(HereGrid(tmp_path / "a"), CONFIG, given(out))
    with pytest.raises(KeyboardInterrupt):
        deployment.serve(Stops(tmp_path / "a", 6, KeyboardInterrupt()), CONFIG, given(out))
    other = RunConfig.parse({**CONFIG.model_dump(), "seed": 6})
    with pytest.raises(RunError, match="another configuration"):
        deployment.serve(HereGrid(tmp_path / "a"), other, given(out))


@pytest.mark.unit
@pytest.mark.parametrize("changed", [{"nodes": 0}, {"deadline": -1}, {"quorum": 5}, {"quorum": 0}])
def test_terms_that_cannot_be_are_refused_before_anything_is_written(changed: dict, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"'{next(iter(changed))}'"):
        deployment.serve(HereGrid(tmp_path / "a"), CONFIG, given(tmp_path / "out", **changed))
    assert not (tmp_path / "out").exists()


@pytest.mark.unit
def test_the_server_leaves_a_run_directory_that_other_verbs_open(tmp_path: Path, capsys):
    out, grid = tmp_path / "out", HereGrid(tmp_path / "a")
    grid.nodes[1] = replace(grid.nodes[1], left_out=("anna",))
    deployment.serve(grid, CONFIG, given(out))
    assert "1 further users are left out by their nodes" in capsys.readouterr().err
    assert not any(b"anna" in path.read_bytes() for path in out.rglob("*") if path.is_file())
    run = RunFolder.open(out)
    assert run.config() == CONFIG
    assert [line["round"] for line in run.lines()] == list(range(6))
    written = json.loads((out / "metrics.json").read_text())
    assert (written["method"], written["rounds"], written["clients"], written["nodes"]) == ("fedeb", 6, 6, 2)
    assert (written["users_left_out"], written["rejected_updates"], written["rows"]) == (1, 0, [])
    assert not run.clients.exists(), "no user's state is on the server"
    from fedvpa.api.report import report

    assert report(out).page.is_file()


@pytest.mark.unit
def test_the_server_takes_from_its_nodes_how_texts_are_read_and_needs_no_language_model(tmp_path: Path):
    out = tmp_path / "out"
    reads = json.dumps({"model": "sha256:theirs", "template": "chat"})
    absent = CONFIG.model_copy(update={"features": CONFIG.features.model_copy(update={"model": "/no/such/model"})})

    def grid(said: str) -> HereGrid:
        made = HereGrid(tmp_path / "a")
        made.nodes = {number: replace(node, reads=said) for number, node in made.nodes.items()}
        return made

    deployment.serve(grid(reads), absent, given(out))
    assert Selector.from_pretrained(out).feature_key == reads
    assert RunFolder.open(out).config().features.template == "chat"
    other = json.dumps({"model": "sha256:other", "template": "chat"})
    with pytest.raises(RunError, match="was trained on the features of another language model than the nodes have"):
        deployment.serve(grid(other), absent, given(out))


@pytest.mark.unit
def test_updates_that_are_rejected_are_counted_and_a_run_that_all_reject_stops(tmp_path: Path, capsys):
    deployment.serve(HereGrid(tmp_path / "a", {1: "nan"}), CONFIG, given(tmp_path / "out"))
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["rejected_updates"] > 0
    assert f"WARNING: {written['rejected_updates']} of 24 updates were rejected" in capsys.readouterr().err
    with pytest.raises(TrainingError, match=r"all 4 updates were rejected.*lower local\.head_lr"):
        deployment.serve(HereGrid(tmp_path / "b", {0: "nan", 1: "nan"}), CONFIG, given(tmp_path / "other"))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (httpx.ConnectError("refused"), "SuperLink cannot be used any more (refused). Check that it runs"),
        (FedvpaError("2 of 7 clients answered"), "2 of 7 clients answered"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_what_stops_the_server_is_said_in_one_line(error: Exception, said: str, capsys):
    with pytest.raises((FedvpaError, OSError)), deployment.explained():
        raise error
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fedvpa: ")
    assert said in line


@pytest.mark.equivalence
def test_secure_aggregation_gives_the_same_selector_and_wants_three_nodes(tmp_path: Path):
    numbers = {**SETTING.model_dump()["server"], "rounds": 2, "clip_norm": 1.0, "max_weight": 9}
    found = {}
    for secure in (False, True):
        engine = {"cohort": 6, "secure_aggregation": secure, "secure_share": 0.5}
        config = RunConfig.parse({**CONFIG.model_dump(), "server": numbers, "engine": engine})
        grid, folder = HereGrid(tmp_path / f"nodes {secure}"), tmp_path / f"{secure}"
        if secure:
            with pytest.raises(ConfigError, match="a deployment of 2 nodes is too small for secure aggregation"):
                deployment.serve(HereGrid(tmp_path / "few"), config, given(folder))
        federation, plain = make_federation(), grid.nodes[0]
        grid.nodes = {
            number: replace(
                plain, holder=replace(federation, partition=Partition(federation.partition.clients[number::3]))
            )
            for number in range(3)
        }
        deployment.serve(grid, config, given(folder, nodes=3))
        found[secure] = Selector.from_pretrained(folder / "selector").params
        assert [line["dropped"] for line in history(folder)] == [[], []]
    for name, leaf in found[False].items():
        torch.testing.assert_close(found[True][name], leaf, rtol=1e-4, atol=1e-5)
