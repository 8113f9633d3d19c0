"""Runs of earlier releases open as what they were, and settings with a new meaning are said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fedvpa.api.personalize import personalize
from fedvpa.api.report import report
from fedvpa.api.train import resume, train
from fedvpa.core.errors import RunError
from fedvpa.core.schema import VERSIONS
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.earlier import _say_once, warn_of_new_meaning
from fedvpa.runs.folder import RunFolder

VERSION = "# schema_version: "


@pytest.fixture(autouse=True)
def _say_again():
    _say_once.cache_clear()


def written(folder: Path, version: int, text: str) -> RunFolder:
    folder.mkdir()
    (folder / "config.yaml").write_text(f"{VERSION}{version}\n{text}")
    return RunFolder.open(folder)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("version", "text", "method"),
    [
        (1, "method: fedvpa_gp\nvariational: {refinement: laplace}\n", "fedem"),
        (1, "method: fedvpa_gp\n", "fedem"),
        (1, 'method: fedvpa_gp\nvariational: {refinement: "off"}\n', "fedvpa_gp"),
        (1, "method: fedvpl\n", "fedvpl"),
        (2, "method: fedvpa_gp\nvariational: {refinement: laplace}\n", "fedvpa_gp"),
    ],
)
def test_what_is_called_fedem_now_opens_as_that_and_says_so_once(
    version: int, text: str, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = written(tmp_path / "run", version, text)
    assert {run.config().method for _ in range(2)} == {method}
    said = capsys.readouterr().err
    assert said.count("its method fedvpa_gp with variational.refinement=laplace is called fedem now") == (
        method == "fedem"
    )
    with pytest.raises(RunError, match="schema version 3"):
        written(tmp_path / "later", 3, text)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("method=fedvpa_gp", "variational.refinement=laplace"), 1),
        (("method=fedvpa_gp", "variational.refinement=off"), 0),
        (("method=fedvpa_gp",), 0),
        (("method=fedem", "variational.refinement=laplace"), 0),
    ],
)
def test_a_setting_with_a_new_meaning_is_said(overrides: tuple[str, ...], said: int, capsys):
    warn_of_new_meaning(read_config(None, overrides))
    assert capsys.readouterr().err.count("is method=fedem") == said


@pytest.mark.end_to_end
def test_a_finished_run_of_an_earlier_release_serves_as_before_and_an_unfinished_one_names_the_way_on(
    tiny: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """An EM that was called fedvpa_gp: its selector and its users are as they were."""
    today = tmp_path / "today"
    train(tiny.model_copy(update={"method": "fedem"}), today)
    run = Path(shutil.copytree(today, tmp_path / "old"))
    config = (run / "config.yaml").read_text()
    old = config.replace(f"{VERSION}{VERSIONS['run']}", f"{VERSION}1").replace("method: fedem", "method: fedvpa_gp")
    assert old != config
    (run / "config.yaml").write_text(old)
    pairs = tmp_path / "pairs.jsonl"
    rows = ({"prompt": f"p {row}", "chosen": "we pack the bag .", "rejected": f"no {row} ."} for row in range(5))
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert personalize(run, pairs).mean == personalize(today, pairs).mean
    assert "is called fedem now" in capsys.readouterr().err
    assert report(run).page.is_file()
    path = run / "checkpoints" / "last.safetensors"
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["fedvpa"])
    save_file(load_file(path), path, {"fedvpa": json.dumps(header | {"schema_version": 2})})
    with pytest.raises(RunError, match=r"schema version 2.*Go on with the release that wrote it"):
        resume(run)
