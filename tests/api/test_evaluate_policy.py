"""The policy of a run, judged: what it leaves behind, again with another judge, and nothing lost when one fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import fedvpa
from fedvpa.api.align import align
from fedvpa.api.evaluate_policy import evaluate_policy
from fedvpa.api.train import train
from fedvpa.core.errors import ConfigError, DataError, JudgeError, RunError
from fedvpa.evaluation.judges.base import Verdict
from fedvpa.evaluation.judges.registry import JUDGES
from fedvpa.evaluation.outcomes import load_outcomes
from fedvpa.experiments import judging
from fedvpa.runs.config import RunConfig, with_overrides
from run_fixtures import TINY_POLICY

KEYS = ("policy_rows", "policy_summary", "policy_differences", "policy_bootstrap", "policy_notes", "switching")


class Shorter:
    """Prefers the shorter response, and says what it was asked."""

    name = "shorter"
    asked = 0

    def compare(self, duels):
        type(self).asked += len(duels)
        ours, theirs = (
            [len(text) for text in side] for side in zip(*((d.first, d.second) for d in duels), strict=True)
        )
        return [Verdict((1 + (b > a) - (a > b)) / 2) for a, b in zip(ours, theirs, strict=True)]


class Down:
    """A judge that answers while it is tried, and is down afterwards."""

    name = "down"

    def compare(self, duels):
        if len(duels) > 2:
            raise JudgeError("The endpoint is down.", fix="Start it.")
        return [Verdict(1.0)] * len(duels)


@pytest.fixture(autouse=True)
def own_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {judge.name: lambda settings, cache, judge=judge: judge() for judge in (Shorter, Down)}
    monkeypatch.setattr(JUDGES, "_registered", {**JUDGES.registered, **made})


@pytest.fixture(scope="module")
def aligned(tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with enough pairs for the groups to lean to different prototypes."""
    run = tmp_path_factory.mktemp("judged") / "run"
    train(with_overrides(tiny, ["data.pairs_per_user=40", "server.rounds=8", "engine.cohort=7"]), run)
    align(run, overrides=TINY_POLICY)
    return run


@pytest.fixture
def run(aligned: Path, tmp_path: Path) -> Path:
    return shutil.copytree(aligned, tmp_path / "run")


def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "load_policy", lambda *_, **__: pytest.fail("a policy was loaded"))


@pytest.mark.end_to_end
def test_a_run_gets_the_files_and_keys_of_a_cell_and_a_second_judging_takes_nothing(run: Path, monkeypatch):
    found = fedvpa.evaluate_policy(run).to_dict()
    assert found["policy_judge"] == "world"
    (row,) = found["policy_rows"]
    assert (row["method"], row["n_clients"], row["outcomes"], row["unseen_outcomes"]) == ("fedeb", 7, 6, 6)
    outcomes = load_outcomes(run / "policy" / "outcomes.jsonl")
    assert {one.preference for one in outcomes} == {"helpful", "harmless"}
    assert len({one.prompt for one in outcomes}) == 3
    assert (found["switching"]["measure"], found["switching"]["rising"]) == ("utility", "helpful")
    assert len(list((run / "policy").glob("path-*.jsonl"))) == 5
    metrics = json.loads((run / "policy" / "metrics.json").read_text())
    assert metrics.keys() >= {"method", "policies", *KEYS}
    assert all(metrics[key] == found[key] for key in KEYS)
    monkeypatch.setattr("fedvpa.experiments.run_judging.judge_policies", lambda *_: pytest.fail("judged again"))
    assert evaluate_policy(run).to_dict() == found


@pytest.mark.end_to_end
def test_another_judge_judges_the_same_answers_and_a_failing_one_loses_nothing(run: Path, monkeypatch):
    first = evaluate_policy(run).to_dict()
    kept = {file: file.read_bytes() for file in (run / "policy").rglob("*") if file.is_file()}
    never_loaded(monkeypatch)
    with pytest.raises(JudgeError, match="endpoint is down"):
        evaluate_policy(run, overrides=["policy.judging.judge=down"])
    assert {file: file.read_bytes() for file in (run / "policy").rglob("*") if file.is_file()} == kept
    other = evaluate_policy(run, overrides=["policy.judging.judge=shorter"]).to_dict()
    assert other["policy_judge"] == "shorter"
    assert other["switching"]["measure"] == "win_rate"
    before, after = (found["policy_summary"][0]["preferences"]["helpful"] for found in (first, other))
    assert (before["prompts"], before["tokens"]) == (after["prompts"], after["tokens"])
    assert after["utility"] is None
    assert evaluate_policy(run, overrides=["policy.judging.prompts=5"]).to_dict()["policy_rows"][0]["outcomes"] == 10
    assert evaluate_policy(run).to_dict() == first


@pytest.mark.end_to_end
def test_a_policy_without_z_answers_every_prompt_once(tiny: RunConfig, tmp_path: Path, monkeypatch):
    run = tmp_path / "run"
    train(tiny.with_method("global"), run)
    align(run, overrides=TINY_POLICY)
    asked = []
    ordinary = judging.Answers._sampled

    def counted(self, name, prompts, z, stream, block):
        asked.append((name, len(prompts), z))
        return ordinary(self, name, prompts, z, stream, block)

    monkeypatch.setattr(judging.Answers, "_sampled", counted)
    Shorter.asked = 0
    found = evaluate_policy(run, overrides=["policy.judging.judge=shorter"]).to_dict()
    assert sorted(name for name, *_ in asked) == ["", "base policy"]
    assert all(z is None for *_, z in asked)
    assert Shorter.asked == 2 * 3 + 2  # both preferences; and one made-up duel of each
    assert "switching" not in found
    assert found["policy_notes"] == ["No switching curve: global has policies that follow no z."]


@pytest.mark.unit
def test_aligning_again_removes_what_was_judged(run: Path):
    evaluate_policy(run)
    align(run, overrides=(*TINY_POLICY, "policy.steps=1", "policy.evaluate_every=1"), overwrite=True)
    assert not (run / "policy" / "judging.json").exists()
    assert "policy_rows" not in json.loads((run / "policy" / "metrics.json").read_text())


@pytest.mark.unit
def test_what_cannot_be_is_one_message(run: Path, finished: Path):
    with pytest.raises(RunError, match=r"holds no policy\. Run: fedvpa align"):
        evaluate_policy(finished)
    with pytest.raises(ConfigError, match=r"policy\.beta cannot be changed: the policy was trained"):
        evaluate_policy(run, overrides=["policy.beta=0.5"])
    with pytest.raises(ConfigError, match=r"partition\.clients cannot be changed"):
        evaluate_policy(run, overrides=["partition.clients=5"])
    with pytest.raises(ConfigError, match=r"judge of the kind 'wrld'.*'world'"):
        evaluate_policy(run, overrides=["policy.judging.judge=wrld"])


@pytest.mark.end_to_end
def test_what_alignment_cost_the_language_is_said_at_three_z(run: Path, tmp_path: Path):
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "you can bake bread with flour ."}\n"i would plan a picnic ."\n')
    found = fedvpa.evaluate_language(run, file).to_dict()
    assert [row["preference"] for row in found["language"]] == ["harmless", "half-way", "helpful"]
    ends = [row["z"] for row in found["language"]]
    assert ends[1] == pytest.approx([(first + last) / 2 for first, last in zip(ends[0], ends[2], strict=True)])
    for row in found["language"]:
        assert row["ratio"] == pytest.approx(row["perplexity"] / found["base_perplexity"])
        assert row["ratio_ci95"][0] <= row["ratio"] <= row["ratio_ci95"][1]
    assert found["texts"] == 2
    file.write_text('{"prompt": "how ?"}\n')
    with pytest.raises(DataError, match=r'texts\.jsonl:1: an object has prompt\. .*an object with "text"'):
        fedvpa.evaluate_language(run, file)
    (tmp_path / "none").write_text("\n")
    with pytest.raises(DataError, match="holds no text"):
        fedvpa.evaluate_language(run, tmp_path / "none")
