"""Judging is a step of its own: answers are drawn as judging says, kept, judged again, and never lost to a judge."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.stub_policy import PrefersPolicy, StubPolicy, served, users
from fedvpa.core.errors import JudgeError
from fedvpa.experiments import judging
from fedvpa.experiments.answers import BLOCK
from fedvpa.experiments.judging import Candidate, is_judged, judge_policies, read_judged, sample_answers
from fedvpa.runs.config import read_config
from fedvpa.runs.folder import RunFolder
from fedvpa.world import backbone_path

pytestmark = pytest.mark.unit

SETTINGS = ("policy.judging.prompts=3", "policy.judging.temperature=0.2", "policy.candidates.temperature=1.5", "seed=5")


def candidate(folder: Path, *overrides: str, along: bool = True, **changes: Any) -> Candidate:
    """A run whose policy nobody trained; its files are what the answers are known by."""
    run = RunFolder(folder)
    if not run.policy.is_dir():
        run.policy.mkdir(parents=True)
        (run.policy / "policy.json").write_text(json.dumps({"schema_version": 2, "max_prompt_tokens": 9}))
        (run.policy / "metrics.json").write_text("{}")
        for name in ("adapter_config.json", "adapter_model.safetensors", "z_conditioner.safetensors"):
            (run.policy / name).write_text("weights")
    config = read_config(None, [*SETTINGS, *overrides])
    return Candidate(run, config, served(**changes), [f"prompt {number}" for number in range(BLOCK + 7)], along)


class Broken:
    """A judge that is out of order."""

    name = "broken"

    def compare(self, duels):
        raise JudgeError("down", fix="Start it.")


def test_answers_are_drawn_as_judging_says_not_as_candidates_are(tmp_path: Path):
    own = candidate(tmp_path)
    sample_answers(own, {"": StubPolicy("policy")})
    judge_policies(own, PrefersPolicy())
    texts = [text for one in read_judged(own.run).outcomes for text in (one.response, one.base_response)]
    assert len(texts) == 2 * 3 * 4
    assert all(" with 0.2, 1.0, " in text for text in texts)


def test_what_was_judged_comes_back_and_the_path_with_its_ends(tmp_path: Path):
    own = candidate(tmp_path)
    sample_answers(own, {"": StubPolicy("policy")})
    assert not is_judged(own.run, own.config, along=True)
    judge_policies(own, PrefersPolicy())
    assert is_judged(own.run, own.config, along=True)
    found = read_judged(own.run)
    assert [(one.preference, one.seen, one.user_id) for one in found.outcomes[:4]] == [
        ("a", True, "s0"),
        ("a", True, "s2"),
        ("a", True, "s3"),
        ("b", True, "s1"),
    ]
    assert found.rising == "b"
    assert list(found.path) == [0, 0.25, 0.5, 0.75, 1]
    for share, outcomes in found.path.items():
        assert [one.preference for one in outcomes] == ["a"] * 3 + ["b"] * 3
        assert all(f" at {[1 - share, share]} " in one.response for one in outcomes)
    assert found.notes == ()
    saved = json.loads((own.run.policy / "judging.json").read_text())
    assert (saved["judge"], saved["prompts"], saved["path"]) == ("stub", 3, ["a", "b"])


def test_another_judge_or_more_prompts_sample_nothing_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own, policy = candidate(tmp_path), StubPolicy("policy")
    sample_answers(own, {"": policy})
    # The base, four contests and five steps, in two blocks each; both preferences of a step share their answers.
    assert len(policy.calls) == 2 * (1 + 4 + 5)
    monkeypatch.setattr(judging, "load_policy", lambda *_, **__: pytest.fail("a policy was loaded"))
    judge_policies(own, PrefersPolicy())
    first = read_judged(own.run)
    more = candidate(tmp_path, "policy.judging.prompts=5")
    assert not is_judged(more.run, more.config, along=True)
    judge_policies(more, PrefersPolicy("base"))
    second = read_judged(more.run)
    assert [one.response for one in second.outcomes[:3]] == [one.response for one in first.outcomes[:3]]
    assert {one.score for one in first.outcomes} == {1.0}
    assert {one.score for one in second.outcomes} == {0.0}
    assert len(second.outcomes) == 4 * 5


def test_users_of_both_kinds_with_one_z_are_still_asked_in_streams_of_their_own(tmp_path: Path):
    own = candidate(tmp_path, unseen=users(["b", "a"], 10, "u"), along=False)
    policy = StubPolicy("policy")
    sample_answers(own, {"": policy})
    assert len(policy.calls) == 2 * (1 + 4)


def test_a_judge_that_fails_costs_neither_answers_nor_what_was_judged_before(tmp_path: Path):
    own = candidate(tmp_path)
    sample_answers(own, {"": StubPolicy("policy")})
    answers = (own.run.policy / "answers.jsonl").read_bytes()
    with pytest.raises(JudgeError, match="down"):
        judge_policies(own, Broken())
    assert not is_judged(own.run, own.config, along=True)
    judge_policies(own, PrefersPolicy())
    with pytest.raises(JudgeError, match="missing"):
        judge_policies(own, PrefersPolicy(missing=3))
    assert is_judged(own.run, own.config, along=True)
    assert {one.score for one in read_judged(own.run).outcomes} == {1.0}
    assert (own.run.policy / "answers.jsonl").read_bytes() == answers


def test_a_path_of_an_earlier_judging_does_not_outlive_it(tmp_path: Path):
    own = candidate(tmp_path)
    sample_answers(own, {"": StubPolicy("policy")})
    judge_policies(own, PrefersPolicy())
    short = replace(own, served=served(latents={"a": [1.0, 0.0], "b": [1.0, 0.0]}))
    judge_policies(short, PrefersPolicy())
    found = read_judged(own.run)
    assert not list(own.run.policy.glob("path-*"))
    assert (found.path, found.rising) == ({}, None)
    assert found.notes == ("No switching curve: fedvpa_gp (seed 5) has the same z for 'a' and 'b'.",)


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("policy.judging.prompts=4", True),
        ("policy.judging.temperature=0.3", True),
        ("policy.judging.top_p=0.5", True),
        ("policy.judging.judge=reward-model", True),
        ("policy.judging.settings={rubric: {a: shorter}}", True),
        ("policy.judging.missing_limit=0.5", False),
        ("policy.judging.max_calls=99", False),
    ],
)
def test_what_decides_a_verdict_makes_it_judged_again(override: str, again: bool, tmp_path: Path):
    own = candidate(tmp_path, along=False)
    sample_answers(own, {"": StubPolicy("policy")})
    judge_policies(own, PrefersPolicy())
    other = candidate(tmp_path, override).config
    assert is_judged(own.run, other, along=False) == (not again)
    assert not is_judged(own.run, own.config, along=True)


def test_other_weights_of_a_policy_or_of_the_judges_model_are_judged_again(tmp_path: Path):
    model = shutil.copytree(backbone_path(), tmp_path / "reward")
    settings = (f"policy.judging.settings={{models: {{a: {model}}}}}", "policy.judging.judge=reward-model")
    own = candidate(tmp_path / "run", *settings, along=False)
    sample_answers(own, {"": StubPolicy("policy")})
    judge_policies(own, PrefersPolicy())
    assert is_judged(own.run, own.config, along=False)
    with (model / "model.safetensors").open("ab") as file:
        file.write(b" ")
    assert not is_judged(own.run, own.config, along=False)
    judge_policies(own, PrefersPolicy())
    (own.run.policy / "adapter_model.safetensors").write_text("others")
    assert not is_judged(own.run, own.config, along=False)
