"""Policies compared from end to end: by an endpoint, on shared prompts of a chat model, and what survives a failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fedvpa
from evaluation.judges.conftest import endpoint
from evaluation.judges.endpoint import Endpoint, Status, longer
from fedvpa.api.compare import compare
from fedvpa.core.errors import DataError, JudgeError
from fedvpa.evaluation.outcomes import load_outcomes
from fedvpa.experiments import policy_training
from fedvpa.runs.config import RunConfig, read_config, with_overrides
from policy_fixtures import base_folder
from run_fixtures import TINY_POLICY

__all__ = ["base_folder", "endpoint"]

CALL: dict[str, Any] = {"stage": "policy", "methods": ["fedeb", "global"], "clients": [4], "seeds": 1, "jobs": 1}


def judged(config: RunConfig, url: str, *more: str) -> RunConfig:
    settings = {"base_url": url, "model": "m", "backoff_s": "0", "retries": "0"}
    keys = [f"policy.judging.settings.{name}={value}" for name, value in settings.items()]
    return with_overrides(config, [*TINY_POLICY, "policy.judging.judge=openai-compatible", *keys, *more])


def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_training, "_train", lambda cell: pytest.fail("a policy was trained again"))


@pytest.mark.end_to_end
def test_an_endpoint_judges_policies_and_the_report_shows_it_all(
    endpoint: Endpoint, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.react = longer
    config = judged(tiny, endpoint.url, "data.pairs_per_user=40", "server.rounds=8", "engine.cohort=4")
    found = compare(config, out=tmp_path, **CALL).to_dict()
    assert found == json.loads((tmp_path / "comparison.json").read_text())
    assert {(row["method"], row["outcomes"]) for row in found["policy_rows"]} == {("fedeb", 6), ("global", 6)}
    assert (found["switching"]["measure"], found["switching"]["method"]) == ("win_rate", "fedeb")
    for file in tmp_path.glob("policies/*/policy/outcomes.jsonl"):
        for one in load_outcomes(file):
            ours, theirs = len(one.response), len(one.base_response)
            assert one.score == (1.0 if ours > theirs else 0.0 if ours < theirs else 0.5)
    page = fedvpa.report(tmp_path).page.read_text()
    for words in ("fedeb", "global", "win rate", "helpful", "harmless", "Switching", "unseen"):
        assert words in page, words
    assert "The figure “Pareto 4 clients” is left out: at N = 4 0 preferences with utilities" in page
    assert "WARNING" not in page
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures >= {"win_rates_4_clients.png", "switching.png"}
    assert "pareto_4_clients.png" not in figures
    (cell,) = tmp_path.glob("policies/fedeb-*")
    assert len((cell / "policy" / "history.jsonl").read_text().splitlines()) == 2
    assert len(fedvpa.generate(cell, ["how do i plan a picnic ?"], preference="helpful").answers) == 1
    asked = len(endpoint.asked)
    no_training(monkeypatch)
    assert compare(config, out=tmp_path, **CALL).to_dict() == found
    assert len(endpoint.asked) == asked
    shorter = with_overrides(config, ["policy.judging.settings.rubric.helpful=The shorter one is better."])
    endpoint.react = lambda told: "B" if longer(told) == "A" else "A"
    again = compare(shorter, out=tmp_path, **CALL).to_dict()
    assert len(endpoint.asked) > asked
    before, after = ({row["method"]: row["win_rates"] for row in one["policy_rows"]} for one in (found, again))
    for method, rates in after.items():
        assert rates["helpful"] == pytest.approx(1 - before[method]["helpful"])
        assert rates["harmless"] == before[method]["harmless"]


@pytest.mark.end_to_end
def test_a_judge_that_fails_costs_no_policy(
    endpoint: Endpoint, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.react = lambda told: "A" if len(endpoint.asked) <= 2 else Status(500, "out of order")
    config = judged(tiny, endpoint.url, "partition.unseen=0")
    with pytest.raises(JudgeError, match=r"fedeb, N = 4, seed 0"):
        compare(config, out=tmp_path, **CALL)
    assert len(list(tmp_path.glob("policies/*/policy/adapter_model.safetensors"))) == 2
    no_training(monkeypatch)
    endpoint.react = longer
    found = compare(config, out=tmp_path, **CALL).to_dict()
    assert {row["missing"] for row in found["policy_rows"]} == {0}


def shared_prompts(folder: Path, *, groups: bool = True) -> Path:
    """Six users who all judge the same forty conversations; the even ones like other answers than the odd ones."""
    rows = []
    for user in range(6):
        for number in range(40):
            liked, other = (f"w{number % 13} w{word} w{number % 11}" for word in ((1, 2), (2, 1))[user % 2])
            turns = [{"role": "user", "content": f"w{number} w{number % 7} w3"}]
            sides = [[{"role": "assistant", "content": text}] for text in (liked, other)]
            row = {"prompt": turns, "chosen": sides[0], "rejected": sides[1], "user_id": f"u{user}"}
            rows.append(row | ({"group": ("kind", "blunt")[user % 2]} if groups else {}))
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def own_data(pairs: Path, model: Path, *more: str) -> RunConfig:
    small = ("server.rounds=3", "local.steps=2", "selector.latent=5", "engine.workers=1")
    return read_config(None, ["data.source=table", f"data.path={pairs}", f"features.model={model}", *small, *more])


@pytest.mark.end_to_end
def test_policies_of_a_chat_model_are_judged_on_shared_prompts_that_no_training_saw(
    endpoint: Endpoint, base_folder: Path, tmp_path: Path
) -> None:
    endpoint.react = longer
    rubrics = [f"policy.judging.settings.rubric.{name}=The longer one." for name in ("kind", "blunt")]
    config = judged(own_data(shared_prompts(tmp_path), base_folder), endpoint.url, *rubrics)
    out = tmp_path / "out"
    found = compare(config, out=out, **CALL | {"clients": [6]}).to_dict()
    assert {name for row in found["policy_rows"] for name in row["win_rates"]} == {"kind", "blunt"}
    (cell,) = out.glob("policies/fedeb-*")
    outcomes = load_outcomes(cell / "policy" / "outcomes.jsonl")
    assert {one.user_id for one in outcomes if one.preference == "kind"} <= {"u0", "u2", "u4"}
    assert {one.user_id for one in outcomes if one.preference == "blunt"} <= {"u1", "u3", "u5"}
    from fedvpa.data.text import plain_text
    from fedvpa.runs.folder import RunFolder
    from fedvpa.runs.stage1 import open_stage1

    run = RunFolder.open(cell)
    stage = open_stage1(run, run.config())
    trained = {plain_text(pair.prompt) for pairs in stage.pairs.of_seen("train").values() for pair in pairs}
    judged_on = {one.prompt for one in outcomes}
    assert judged_on
    assert trained
    assert not judged_on & trained
    assert "<table" in fedvpa.report(out).page.read_text()


@pytest.mark.end_to_end
def test_users_without_groups_are_judged_under_one_preference(
    endpoint: Endpoint, base_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    endpoint.react = longer
    own = own_data(shared_prompts(tmp_path, groups=False), base_folder)
    config = judged(own, endpoint.url, "policy.judging.settings.rubric.all=The longer one.")
    out = tmp_path / "out"
    found = compare(config, out=out, **CALL | {"clients": [6]}).to_dict()
    assert {name for row in found["policy_rows"] for name in row["win_rates"]} == {"all"}
    assert "switching" not in found
    assert any(note.startswith("No switching curve: fedeb") for note in found["policy_notes"])
    assert "policies are judged under one preference, 'all'" in capfd.readouterr().err
    assert "No switching curve" in fedvpa.report(out).page.read_text()


@pytest.mark.unit
def test_methods_that_need_groups_are_left_out_or_refused_before_anything_runs(
    base_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class WouldRun(Exception):
        """What would be compared."""

    def ran(config: RunConfig, names: list[str], *_: Any) -> None:
        raise WouldRun(*names)

    monkeypatch.setattr("fedvpa.api.compare._compare_selectors", ran)
    own = own_data(shared_prompts(tmp_path, groups=False), base_folder)
    call: dict[str, Any] = {"clients": [6], "seeds": 1, "out": tmp_path / "out"}
    with pytest.raises(WouldRun) as asked:
        compare(own, **call)
    assert asked.value.args == ("fedeb", "fedvpa_gp", "fedvpl", "lore", "finetune", "global", "local")
    assert (
        "informed and oracle are left out: they need the true group of every client, and the pairs name no groups"
        in (capfd.readouterr().err)
    )
    with pytest.raises(
        DataError, match=r"oracle needs the true group .* the pairs name no groups\. .*data\.map\.group="
    ):
        compare(own, methods=["global", "oracle"], **call)
    mixed = with_overrides(
        own_data(shared_prompts(tmp_path), base_folder), ["partition.kind=dirichlet", "partition.min_train=1"]
    )
    with pytest.raises(DataError, match=r"oracle needs .* \d of 3 clients have pairs of several groups or of none"):
        compare(mixed, methods=["oracle"], **call | {"clients": [3]})
    assert not (tmp_path / "out").exists()
