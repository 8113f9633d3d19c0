"""The server of a deployment, on nodes in this process: stopped anywhere, it ends where it would have."""

import json
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from fedvpa.core.errors import FedvpaError, RunError
from fedvpa.runs.config import RunConfig
from fedvpa.selector.selector import Selector

httpx = pytest.importorskip("httpx", reason="fedvpa[flower] is not installed")
pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.deployment import server as deployment
from here_grid import SETTING, HereGrid, task

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


def given(out: Path, **changed: object) -> dict[str, object]:
    return {"out": str(out), "nodes": 2, "deadline": 1.0, "quorum": 0.5, **changed}


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
        deployment.serve(HereGrid(tmp_path / "a"), CONFIG, given(out, nodes=3, deadline=0.0))
    assert not (out / "config.yaml").exists()
    monkeypatch.setattr("fedvpa.deployment.server.HANDOVER_SECONDS", 0.01)
    with FileLock(out / ".lock"), pytest.raises(RunError, match="another program writes to it"):
        deployment.serve(HereGrid(tmp_path / "a"), CONFIG, given(out))
    with pytest.raises(KeyboardInterrupt):
        deployment.serve(Stops(tmp_path / "a", 4, KeyboardInterrupt()), CONFIG, given(out))
    other = RunConfig.parse({**CONFIG.model_dump(), "seed": 6})
    with pytest.raises(RunError, match="another configuration"):
        deployment.serve(HereGrid(tmp_path / "a"), other, given(out))


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
