"""The demo in one process; its policies are those of a comparison and trained elsewhere."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fedvpa
from fedvpa.api import demo as module
from fedvpa.runs.config import RunConfig


@pytest.mark.end_to_end
def test_the_demo_needs_no_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def no_policies(cells: Any, jobs: int) -> None:
        asked.append(([(cell.method, cell.config.seed) for cell in cells], jobs))

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", lambda self: pytest.fail("a process started"))
    monkeypatch.setattr(module, "run_policies", no_policies)
    monkeypatch.setattr(module, "SHOTS", (1, 2))
    monkeypatch.setattr(module, "UNSEEN", 3)
    small = {"server": {"rounds": 2}, "data": {"pairs_per_user": 20}}
    parse = RunConfig.parse
    monkeypatch.setattr(module, "RunConfig", SimpleNamespace(parse=lambda values: parse({**values, **small})))
    result = fedvpa.demo(str(tmp_path), seeds=1, clients=4, jobs=1)
    assert asked == [([("fedvpa_gp", 0), ("global", 0)], 1)]
    assert {row.method for row in result.selectors.accuracy.rows} == {
        "fedvpa_gp",
        "fedvpl",
        "global",
        "local",
        "oracle",
    }
    assert json.loads((tmp_path / "comparison.json").read_text()) == result.to_dict()
    page = (tmp_path / "report.html").read_text()
    assert {path.stem for path in (tmp_path / "figures").iterdir()} >= {"few_shot", "latent_map", "accuracy_4_clients"}
    fedvpa.report(tmp_path)
    assert same_but_figures((tmp_path / "report.html").read_text()) == same_but_figures(page)
    assert f"fedvpa demo --out {tmp_path} --clients 4 --seeds 1" in page


def same_but_figures(page: str) -> str:
    """The page without its pictures, whose files name the moment they were drawn."""
    return re.sub(r'src="[^"]*"', "", page)
