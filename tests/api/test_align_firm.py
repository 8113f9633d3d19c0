"""FIRM and its yardsticks on a run: objectives, preference, files, resume, and what is refused before it trains."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fedvpa.algorithms import firm_method
from fedvpa.api.align import align
from fedvpa.api.generate import generate
from fedvpa.core.errors import ConfigError, DataError
from fedvpa.core.signals import Interrupted
from fedvpa.experiments.methods import SEVERAL_OBJECTIVES, policy_methods

from .test_align_feddpo import history, stop_at, without_selector

SMALL = (
    "policy.lora_rank=3",
    "firm.rounds=2",
    "firm.cohort=2",
    "firm.steps=1",
    "firm.prompts=2",
    "firm.completions=2",
    "firm.max_new_tokens=60",
    "firm.preference=0.7,0.3",
    "policy.candidates.validation_prompts=3",
)
NAMES = ["world:helpful", "world:harmless"]


@pytest.fixture(autouse=True)
def small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firm_method, "PROBE_PROMPTS", 4)


def notes_of(run: Path) -> dict[str, Any]:
    found = json.loads((run / "policy" / "metrics.json").read_text())
    return dict(found["policies"][""])


@pytest.mark.end_to_end
def test_what_it_leaves_behind(finished: Path, tmp_path: Path, capsys):
    run = without_selector(finished, tmp_path / "run")
    align(run, overrides=SMALL, method="firm")
    assert "world:helpful: " in capsys.readouterr().err
    notes, lines = notes_of(run), history(run)
    assert (notes["objectives"], notes["preference"], notes["rho"], notes["rounds"]) == (NAMES, [0.7, 0.3], 4.0, 2)
    assert [line["round"] for line in lines] == [1, 2]
    for line in lines:
        assert {"kl", "vertex", "disagreement", "drift", "missing", "constant"} <= line.keys()
        assert all(f"{key}.{name}" in line for name in NAMES for key in ("reward.before", "reward.after", "lambda"))
        assert line["lambda.world:helpful"] + line["lambda.world:harmless"] == pytest.approx(1)
        assert line["lambda.world:helpful"] > 0.6
    card = (run / "policy" / "README.md").read_text()
    assert "by policy gradients on responses that they sampled to their own prompts" in card
    assert "no prompt and no response left" in card
    assert generate(run, ["how do i plan a picnic ?"], None, temperature=0).answers[0].response


@pytest.mark.equivalence
def test_fedcmoo_stopped_and_resumed_equals_uninterrupted_and_remembers_its_settings(
    finished: Path, tmp_path: Path, monkeypatch
):
    whole = without_selector(finished, tmp_path / "whole")
    align(whole, overrides=SMALL, method="fedcmoo")
    run = without_selector(finished, tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_at(patch, 1, signal.SIGINT)
        with pytest.raises(Interrupted, match=r"after round 1 of 2; .* --method fedcmoo --resume"):
            align(run, overrides=SMALL, method="fedcmoo")
    align(run, resume=True)
    for name in ("policy/adapter_model.safetensors", "checkpoints/policy.safetensors"):
        ours, theirs = load_file(whole / name), load_file(run / name)
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(theirs[key]) for key in ours), name
    assert history(whole) == history(run)
    assert notes_of(whole) | {"seconds": 0} == notes_of(run) | {"seconds": 0}


@pytest.mark.end_to_end
def test_soups_leave_one_adapter_of_the_rank_of_all(finished: Path, tmp_path: Path):
    run = without_selector(finished, tmp_path / "run")
    align(run, overrides=(*SMALL, "firm.rounds=1"), method="soups")
    shape = json.loads((run / "policy" / "adapter_config.json").read_text())
    assert (shape["r"], shape["lora_alpha"] / shape["r"]) == (6, 64 / 3)
    assert generate(run, ["how do i plan a picnic ?"], None, temperature=0).answers[0].response


@pytest.mark.unit
@pytest.mark.parametrize(
    ("method", "override", "message"),
    [
        ("firm", "firm.preference=0.2,0.3,0.5", "has 3 shares, and there are 2 objectives"),
        ("single", "firm.preference=0.5,0.5", "trains on one objective"),
        ("mgda", "firm.objectives=world:helpful", "leaves nothing to weigh"),
        ("scalar", "firm.objectives=world:helpful,world:hamless", "Did you mean 'harmless'"),
        ("fedcmoo", "policy.lora_dropout=0.1", "Set policy.lora_dropout=0"),
    ],
)
def test_wrong_input_is_one_message_before_anything_loads(finished: Path, method: str, override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        align(finished, overrides=(*SMALL, override), method=method)
    assert message in str(caught.value)
    assert not (finished / "policy").exists()


@pytest.mark.end_to_end
def test_an_objective_that_does_not_vary_is_named_and_costs_no_policy(finished: Path, tmp_path: Path):
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    # One token is no text of the world, so all samples are worth the same.
    with pytest.raises(DataError, match="The objective 'world:helpful' does not vary"):
        align(run, overrides=(*SMALL, "firm.max_new_tokens=1"), method="firm")
    assert not (run / "policy").exists()


@pytest.mark.unit
def test_all_of_them_can_be_compared():
    assert set(SEVERAL_OBJECTIVES) <= set(policy_methods())
