"""``fedvpa audit``: on a run with canaries, without, and on what is no run."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from command_line import fedvpa
from fedvpa.api.audit import audit, notes
from fedvpa.api.report import report
from fedvpa.api.train import train
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.runs.config import with_overrides

CANARIES = [
    "method=fedem",
    "selector.rotation=none",
    "privacy.delta=1e-6",
    "privacy.canaries=40",
    "privacy.seeded=true",
    "partition.clients=8",
    "partition.unseen=2",
    "engine.cohort=6",
    "server.rounds=6",
]


@pytest.fixture(scope="module")
def loud(tiny, tmp_path_factory) -> Path:
    """A run with canaries and next to no noise."""
    out = tmp_path_factory.mktemp("runs") / "loud"
    train(with_overrides(tiny, [*CANARIES, "privacy.noise_multiplier=1e-6"]), out)
    return out


@pytest.mark.end_to_end
def test_without_noise_canaries_show_nearly_all_that_they_can(loud: Path):
    metrics = json.loads((loud / "metrics.json").read_text())["privacy"]
    assert metrics["canaries"] == 40
    assert metrics["epsilon_released"] > 1e9
    found = audit(loud).canaries
    assert found is not None
    assert found.largest == pytest.approx(2.56, abs=0.01)
    assert found.released.shown >= 0.8 * found.largest
    assert found.released.membership is not None
    assert found.released.membership.auc > 0.95
    page = report(loud).page.read_text()
    assert "canaries planted: this model is for auditing, not for use" in page
    assert "who sees the released sums" in page


@pytest.mark.end_to_end
def test_with_noise_they_show_less_than_is_claimed(tiny, tmp_path: Path):
    settings = [entry for entry in CANARIES if entry != "privacy.seeded=true"]
    train(with_overrides(tiny, [*settings, "privacy.noise_multiplier=8"]), tmp_path / "run")
    key = tmp_path / "run" / "checkpoints" / "privacy.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    found = audit(tmp_path / "run").canaries
    assert found is not None
    for one in (found.released, found.server):
        assert one.shown <= one.claimed
    key.unlink()
    with pytest.raises(RunError, match="noise and cohorts"):
        audit(tmp_path / "run")


@pytest.mark.end_to_end
def test_without_canaries_it_says_how_to_plant_them(finished: Path, tmp_path: Path):
    shutil.copytree(finished, tmp_path / "run")
    done = fedvpa("audit", str(tmp_path / "run"), "--rounds", "2")
    assert done.returncode == 0
    assert "2 rounds trained again" in done.stdout
    assert "privacy.canaries=200" in done.stdout
    kept = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert kept["canaries"] is None
    assert kept["rounds"] == 2
    assert {row["who"] for row in kept["attributes"]} >= {"server", "participant", "released model"}
    assert kept["membership"]["members"] == 7


@pytest.mark.end_to_end
def test_wrong_input_is_one_message(finished: Path, tiny, tmp_path: Path):
    done = fedvpa("audit", str(tmp_path))
    assert done.returncode == 2
    assert "holds no run" in done.stderr
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    with pytest.raises(RunError, match="not finished"):
        audit(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "clients")
    with pytest.raises(ConfigError, match="Give 1 or more"):
        audit(tmp_path / "run", rounds=0)
    with pytest.raises(ConfigError, match="for an audit"):
        train(with_overrides(tiny, ["engine.name=flower", "privacy.canaries=9", "privacy.epsilon=3"]), tmp_path / "new")


@pytest.mark.unit
def test_notes_say_what_was_recorded_in_place_of_what_the_run_sends(tiny):
    groups = ("helpful", "harmless")
    flower = ["engine.name=flower"]
    nodes = [*flower, "engine.secure_aggregation=true", "privacy.epsilon=8", "privacy.noise=clients"]

    def said(overrides: list[str]) -> tuple[bool, bool]:
        found = " ".join(notes(with_overrides(tiny, overrides), groups))
        return "not from Flower's traffic" in found, "before any noise" in found

    assert said([]) == (False, False)
    assert said(flower) == (True, False)
    assert said(nodes) == (True, True)
    assert said([*nodes, "privacy.noise=server"]) == (True, False)
