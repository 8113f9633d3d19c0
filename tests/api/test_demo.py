"""The demo as it is, but tiny: both stages, in one process, down to the page."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fedvpa
from fedvpa.api import demo as module
from fedvpa.api.demo import SELECTORS
from fedvpa.runs.config import RunConfig, with_overrides
from run_fixtures import TINY_POLICY

SMALL = ("server.rounds=2", "data.pairs_per_user=20", "local.steps=2", *TINY_POLICY)


@pytest.mark.end_to_end
def test_the_demo_shows_both_stages_and_needs_no_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse, configs = RunConfig.parse, list[RunConfig]()

    def small(values: dict[str, Any]) -> RunConfig:
        configs.append(with_overrides(parse(values), SMALL))
        return configs[0]

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", lambda self: pytest.fail("a process started"))
    monkeypatch.setattr(module, "SHOTS", (1, 2))
    monkeypatch.setattr(module, "UNSEEN", 3)
    monkeypatch.setattr(module, "RunConfig", SimpleNamespace(parse=small))
    result = fedvpa.demo(str(tmp_path), seeds=1, clients=4, jobs=1)
    assert {row.method for row in result.selectors.accuracy.rows} == {*SELECTORS, "bayes"}
    assert result.policies is not None
    assert {row.method for row in result.policies.win_rates.rows} == {"fedeb", "global"}
    assert result.policies.switching is not None
    assert result.policies.switching.measure == "utility"
    assert json.loads((tmp_path / "comparison.json").read_text()) == result.to_dict()
    page = (tmp_path / "report.html").read_text()
    for words in ("<html", "fedeb", "oracle", "win rate", "Switching", "Pareto", "Latent map", "Few shot"):
        assert words in page, words
    assert "left out:" not in page
    figures = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert figures >= {"latent_map", "few_shot", "accuracy_4_clients"}
    assert figures >= {"win_rates_4_clients", "pareto_4_clients", "switching"}
    fedvpa.report(tmp_path)
    assert same_but_figures((tmp_path / "report.html").read_text()) == same_but_figures(page)
    assert f"fedvpa demo --out {tmp_path} --clients 4 --seeds 1" in page


def same_but_figures(page: str) -> str:
    """The page without its pictures, whose files name the moment they were drawn."""
    return re.sub(r'src="[^"]*"', "", page)
