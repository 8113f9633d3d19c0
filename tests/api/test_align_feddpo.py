"""FedDPO on a run's pairs: no selector is read, no z is taken, and stopping it changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedvpa.algorithms.client import client_examples
from fedvpa.alignment import federated_job
from fedvpa.api.align import align
from fedvpa.api.generate import generate
from fedvpa.api.report import report
from fedvpa.core.errors import AlignmentError, ConfigError
from fedvpa.core.signals import Interrupted
from fedvpa.experiments.client_models import train_by_clients
from fedvpa.policy.adapters import snapshot
from fedvpa.runs.folder import RunFolder

from .test_align import stage_of

SMALL = (
    "policy.lora_rank=3",
    "policy.candidates.max_new_tokens=17",
    "policy.candidates.validation_prompts=3",
    "policy.feddpo.rounds=4",
    "policy.feddpo.cohort=2",
    "policy.feddpo.steps=2",
    "policy.feddpo.batch=3",
)


def without_selector(finished: Path, place: Path) -> Path:
    """A run that stopped before its selector was written."""
    return Path(shutil.copytree(finished, place, ignore=shutil.ignore_patterns("selector")))


@pytest.fixture(scope="module")
def aligned(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = without_selector(finished, tmp_path_factory.mktemp("feddpo") / "run")
    align(run, overrides=SMALL, method="feddpo")
    return run


def history(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "policy" / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def stop_at(monkeypatch: pytest.MonkeyPatch, round_: int, number: int) -> None:
    ordinary = federated_job.rounds

    def interrupted(*arguments, **others):
        for state, line in ordinary(*arguments, **others):
            if state.server.round == round_:
                os.kill(os.getpid(), number)
            yield state, line

    monkeypatch.setattr(federated_job, "rounds", interrupted)


@pytest.mark.end_to_end
def test_what_it_leaves_behind(aligned: Path):
    files = {path.name for path in (aligned / "policy").iterdir()}
    assert files == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "history.jsonl", "metrics.json",
        "policy.json", "preferences.json",
    }  # fmt: skip
    metrics = json.loads((aligned / "policy" / "metrics.json").read_text())
    found = metrics["policies"][""]
    assert metrics["method"] == "feddpo"
    assert (found["rounds"], found["averaging"], found["rejected"]) == (4, "avg", 0)
    look = found["look"]
    assert (found["looks"], found["admissible"], found["collapsed"]) == (1, 1, "")
    assert (look["prompts"], look["refused"]) == (3, "")
    assert look["distinct"] > 0.5 < look["base_distinct"]
    lines = history(aligned)
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    assert all(len(line["cohort"]) == 2 and line["rejected"] == [] for line in lines)
    assert found["uplink_bytes"] == lines[-1]["uplink_bytes"] > 0
    card = (aligned / "policy" / "README.md").read_text()
    assert "7 clients ran DPO on their own pairs" in card
    assert "over 4 rounds" in card
    assert "--preference" not in card
    assert "averaged by the rule" in card


@pytest.mark.end_to_end
def test_a_policy_that_leaves_the_language_is_kept_and_ends_in_an_error(finished: Path, tmp_path: Path):
    run = without_selector(finished, tmp_path / "run")
    with pytest.raises(AlignmentError, match=r"collapsed: after its last round .*nats a token.*firm\.lr") as fallen:
        align(run, overrides=(*SMALL, "policy.feddpo.rounds=1", "policy.lr=0.3"), method="feddpo")
    assert fallen.value.exit_code == 1
    found = json.loads((run / "policy" / "metrics.json").read_text())["policies"][""]
    assert (found["looks"], found["admissible"]) == (1, 0)
    assert found["collapsed"] == found["look"]["refused"] in str(fallen.value)
    assert load_file(run / "policy" / "adapter_model.safetensors")
    assert "and has left the base" in report(run).page.read_text()


@pytest.mark.equivalence
@pytest.mark.parametrize(
    ("round_", "number", "own"),
    [
        (1, signal.SIGINT, ("clients.rule=median", "clients.codec=int8", "clients.dropout=0.4", "feddpo.cohort=4")),
        (3, signal.SIGTERM, ("feddpo.averaging=svd",)),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted(round_, number, own, finished: Path, tmp_path: Path, monkeypatch):
    overrides = (*SMALL, *(f"policy.{one}" for one in own))
    whole = without_selector(finished, tmp_path / "whole")
    align(whole, overrides=overrides, method="feddpo")
    run = without_selector(finished, tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_at(patch, round_, number)
        named = f"{number.name}: stopped after round {round_} of 4; .* --method feddpo --resume"
        with pytest.raises(Interrupted, match=named) as stopped:
            align(run, overrides=overrides, method="feddpo")
    assert stopped.value.exit_code == 128 + number
    assert len(history(run)) == round_
    align(run, overrides=overrides, method="feddpo", resume=True)
    for name in ("policy/adapter_model.safetensors", "checkpoints/policy.safetensors"):
        ours, theirs = load_file(whole / name), load_file(run / name)
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(theirs[key]) for key in ours), name
    assert history(whole) == history(run)
    assert any(line["dropped"] for line in history(run)) == ("clients.dropout=0.4" in own)
    metrics = [json.loads((run / "policy" / "metrics.json").read_text())["policies"][""] for run in (whole, run)]
    assert metrics[0] | {"seconds": 0} == metrics[1] | {"seconds": 0}


@pytest.mark.equivalence
def test_the_comparison_trains_the_same_policy(aligned: Path, finished: Path):
    stage = stage_of(finished, *SMALL)
    policy, notes = train_by_clients("feddpo", stage, RunFolder.open(finished).config(SMALL))
    saved = json.loads((aligned / "policy" / "policy.json").read_text())
    assert notes == {name: saved[name] for name in notes}
    adapter = load_file(aligned / "policy" / "adapter_model.safetensors")
    ours = {name.removeprefix("model.").replace(".default", ""): leaf for name, leaf in snapshot(policy).items()}
    assert ours.keys() == adapter.keys()
    assert all(torch.equal(leaf, adapter[name]) for name, leaf in ours.items())


@pytest.mark.end_to_end
def test_it_answers_without_a_preference_and_takes_none(aligned: Path):
    found = generate(aligned, ["how do i plan a picnic ?"], None, temperature=0)
    assert found.z is None
    assert 0 < len(found.answers[0].response.split()) <= 17
    with pytest.raises(ConfigError, match="'feddpo' is the same for everybody and cannot follow 'helpful'"):
        generate(aligned, ["how ?"], "helpful")


@pytest.mark.end_to_end
def test_a_client_whose_training_breaks_is_counted(finished: Path, tmp_path: Path, monkeypatch, capsys):
    run = without_selector(finished, tmp_path / "run")
    ordinary = client_examples.client_examples
    broken = []

    def examples(policy, pairs):
        found = ordinary(policy, pairs)
        if not broken:
            found.reference.fill_(float("nan"))
            broken.append(found)
        return found

    monkeypatch.setattr(client_examples, "client_examples", examples)
    found = align(run, overrides=(*SMALL, "policy.feddpo.cohort=99", "policy.feddpo.rounds=2"), method="feddpo")
    assert found.policies[""].notes["rejected"] == 2
    first = history(run)[0]
    assert len(first["rejected"]) == 1
    assert set(first["rejected"]) < set(first["cohort"])
    said = capsys.readouterr().err
    assert f"the update of client {first['rejected'][0]!r} was rejected" in said
    assert "policy.feddpo.cohort=99, and there are 7 clients" in said
    assert all(leaf.isfinite().all() for leaf in load_file(run / "policy" / "adapter_model.safetensors").values())


@pytest.mark.unit
def test_a_run_is_aligned_by_its_own_method_or_feddpo(finished: Path):
    with pytest.raises(
        ConfigError, match=r"'fedbiscuit' cannot align .* 'fedeb'\. Known: fedcmoo, feddpo, fedeb, firm"
    ):
        align(finished, method="fedbiscuit")
    with pytest.raises(ConfigError, match="Did you mean 'feddpo'"):
        align(finished, method="fedpdo")
