"""What is said about the judge of a comparison before anything trains, and what it costs."""

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.judges.conftest import endpoint
from evaluation.judges.endpoint import Endpoint, Status
from fedvpa.api.compare import compare
from fedvpa.core.errors import ConfigError, JudgeError
from fedvpa.experiments.judge_check import most_duels
from fedvpa.experiments.policy_cells import policy_cells
from fedvpa.runs.config import RunConfig, read_config, with_overrides
from run_fixtures import TINY_POLICY

__all__ = ["endpoint"]

CALL: dict[str, Any] = {"stage": "policy", "clients": [4], "seeds": 1, "jobs": 1}


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be trained."""
    monkeypatch.setattr("fedvpa.api.compare._compare_selectors", lambda *_: pytest.fail("something was trained"))


def judged(tiny: RunConfig, url: str, *more: str) -> RunConfig:
    settings = {"base_url": url, "model": "m", "backoff_s": "0", "retries": "0"}
    return with_overrides(
        tiny,
        [
            *TINY_POLICY,
            "partition.unseen=2",
            "policy.judging.judge=openai-compatible",
            *(f"policy.judging.settings.{name}={value}" for name, value in settings.items()),
            *more,
        ],
    )


@pytest.mark.unit
def test_the_plan_counts_every_duel_of_every_cell(tiny: RunConfig, tmp_path: Path) -> None:
    config = with_overrides(tiny, [*TINY_POLICY, "partition.unseen=2"])
    one: dict[str, Any] = {"clients": [4], "seeds": 1, "first_seed": 0, "out": tmp_path}
    cells = policy_cells(config, methods=["fedeb", "fedvpl", "global", "feddpo"], **one)
    # Three prompts, two preferences; by seen and unseen users where z is personal; five steps of the path for ours.
    assert [most_duels(cell, 2, 3) for cell in cells] == [3 * (2 * 2 + 5 * 2), 3 * 2 * 2, 3 * 2, 3 * 2]
    alone = policy_cells(with_overrides(config, ["partition.unseen=0"]), methods=["fedvpl"], **one)
    assert most_duels(alone[0], 2, 3) == 3 * 2


@pytest.mark.end_to_end
@pytest.mark.usefixtures("untrained")
def test_a_judge_that_does_not_answer_is_found_before_anything_trains(
    endpoint: Endpoint, tiny: RunConfig, tmp_path: Path
) -> None:
    endpoint.react = lambda asked: Status(404, "no model m")
    with pytest.raises(JudgeError, match=r"no model m.*base_url ends in the version"):
        compare(judged(tiny, endpoint.url), methods=["global"], out=tmp_path / "out", **CALL)
    assert len(endpoint.asked) == 2


@pytest.mark.end_to_end
@pytest.mark.usefixtures("untrained")
def test_a_plan_beyond_the_limit_is_refused_before_the_first_call(
    endpoint: Endpoint, tiny: RunConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = judged(tiny, endpoint.url, "policy.judging.max_calls=13", "policy.judging.settings.price_in=1",
                    "policy.judging.settings.price_out=2")  # fmt: skip
    # Three prompts under two preferences in both orders are 12 calls; the trial takes two more.
    with pytest.raises(ConfigError, match="Judging takes 14 calls, and 13 are allowed"):
        compare(config, methods=["global"], out=tmp_path / "out", **CALL)
    assert "judge m: at most 6 duels in both orders, runs: 1; 14 calls; about " in capfd.readouterr().err
    assert endpoint.asked == []


@pytest.mark.end_to_end
@pytest.mark.usefixtures("untrained")
def test_data_outside_the_world_have_no_judge_by_default(tiny: RunConfig, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    row = {"prompt": "How do I bake bread?", "chosen": "x", "rejected": "y", "user_id": "u", "group": "helpful"}
    pairs.write_text(json.dumps(row) + "\n")
    own = read_config(None, ["data.source=table", f"data.path={pairs}", "features.model=bundled"])
    with pytest.raises(ConfigError, match=r"'policy\.judging\.judge': No judge is set.*openai-compatible.*base_url"):
        compare(own, methods=["global"], out=tmp_path / "out", **CALL)
    old = with_overrides(own, ["policy.judging.judge=world"])  # the default of earlier releases
    with pytest.raises(ConfigError, match=r"judge 'world' knows .*How do I bake bread.*reward-model"):
        compare(old, methods=["global"], out=tmp_path / "out", **CALL)
    del row["group"]
    pairs.write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match=r"judge 'world' knows .*no group 'all'.*reward-model"):
        compare(old, methods=["global"], out=tmp_path / "out", **CALL)
    assert tiny.judge_name == "world"
    assert old.judge_name == "world"
    assert not (tmp_path / "out").exists()


@pytest.mark.end_to_end
def test_a_judge_that_names_a_place_is_said_loudly(
    endpoint: Endpoint, tiny: RunConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    endpoint.react = lambda asked: "A"
    config = judged(tiny, endpoint.url, "policy.judging.max_calls=14")
    compared = compare(config, methods=["global"], out=tmp_path, **CALL).to_dict()
    assert len(endpoint.asked) <= 14
    (judge,) = compared["policy_judges"]
    assert (judge["judge"], judge["flipped"], judge["first_seat"], judge["position_biased"]) == ("m", 1.0, 1.0, True)
    assert judge["ties"] == judge["duels"] == 6
    assert "WARNING: the judge 'm' decides by the place of an answer" in capfd.readouterr().err
    asked = len(endpoint.asked)
    compare(config, methods=["global"], out=tmp_path, **CALL)
    assert len(endpoint.asked) == asked  # all is finished: the judge is not even tried
