"""Commands that make a run again give the settings that it was made with."""

import shlex
from pathlib import Path

import pytest

from fedvpa.runs.commands import align_command, compare_command, given, train_command
from fedvpa.runs.config import RunConfig, read_config, with_overrides

pytestmark = pytest.mark.unit

FILE = Path("runs/a run/config.yaml")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["method=fedvpl", "server.rounds=3", "policy.steps=7"],
        ["data.source=table", "data.path=my pairs.jsonl", "data.map.user_id=on", "features.model=4.1"],
        ["partition.kind=group", "partition.shares={helpful: 0.9, harmless: 0.1}", "partition.clients=10"],
        ["selector.encoder.pair_widths=[16, 8]", "seed=5", "data.user_shares=[0.5, 0.5]"],
    ],
)
def test_the_overrides_are_read_back_as_the_same_settings(overrides):
    config = read_config(None, overrides)
    words = shlex.split(train_command(config, FILE, Path("runs/a run")))
    assert words[:2] == ["fedvpa", "train"]
    assert words[-2:] == ["--out", "runs/a run"]
    assert "--config" not in words
    assert read_config(None, words[2:-2]) == config


def test_a_run_with_the_defaults_has_no_overrides():
    assert given(RunConfig(), FILE) == []


def test_align_repeats_what_the_policy_was_trained_with():
    config = read_config(None, ["policy.steps=9"])
    trained = with_overrides(config, ["policy.steps=200", "policy.judging.prompts=5"]).policy.model_dump(mode="json")
    words = shlex.split(align_command(config, trained, "feddpo", Path("runs/one")))
    assert words == [
        "fedvpa", "align", "runs/one", "policy.steps=200", "policy.judging.prompts=5", "--method", "feddpo",
        "--overwrite",
    ]  # fmt: skip
    assert "--method" not in align_command(config, trained, config.method, Path("runs/one"))


def test_compare_repeats_its_options():
    config = read_config(None, ["server.rounds=3"])
    options = {"stage": "policy", "methods": ["a", "b"], "clients": [10, 50], "seeds": 5, "first_seed": None}
    words = shlex.split(compare_command(config, FILE, Path("t"), **options))
    assert words == [
        "fedvpa", "compare", "server.rounds=3", "--stage", "policy", "--methods", "a,b", "--clients", "10,50",
        "--seeds", "5", "--out", "t",
    ]  # fmt: skip
