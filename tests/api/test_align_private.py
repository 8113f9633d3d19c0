"""A policy that clients train with noise, from a private run to its files: what it costs, says, keeps and refuses."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fedvpa.algorithms import firm_method
from fedvpa.alignment import federated_job
from fedvpa.api.align import align
from fedvpa.api.report import report
from fedvpa.api.train import train
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.signals import Interrupted
from fedvpa.experiments import client_models
from fedvpa.privacy.accounting import Releases, epsilon_composed
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.runs.config import with_overrides
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.policies import remove_policies
from fedvpa.runs.stage1 import open_stage1

from .test_align_feddpo import SMALL, history, stop_at

PRIVATE = ["method=fedem", "selector.rotation=none", "privacy.noise_multiplier=1.5", "engine.cohort=4"]
ANY = ("policy.guard.max_kl=1e6", "policy.guard.max_drop=1e6", "policy.guard.min_distinct=0")
OWN = (*SMALL, *ANY, "policy.feddpo.rounds=2", "policy.feddpo.cohort=3", "policy.feddpo.steps=1")


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("private") / "run"
    train(with_overrides(tiny, PRIVATE), run)
    return run


@pytest.fixture(scope="module")
def stopped(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was stopped after its first round; to be copied."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("stopped") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 1, signal.SIGINT)
        with pytest.raises(Interrupted, match="after round 1 of 2"):
            align(run, overrides=OWN, method="feddpo")
    return run


@pytest.fixture(scope="module")
def aligned(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(stopped, tmp_path_factory.mktemp("aligned") / "run"))
    align(run, resume=True)
    return run


def notes_of(run: Path) -> dict[str, Any]:
    found = json.loads((run / "policy" / "metrics.json").read_text())
    return dict(found["policies"][""])


@pytest.mark.end_to_end
def test_metrics_card_report_and_history_say_what_it_costs(aligned: Path):
    found, selector = notes_of(aligned)["privacy"], json.loads((aligned / "metrics.json").read_text())["privacy"]
    assert (found["rounds"], found["clients"], found["rate"], found["unit"]) == (2, 7, 3 / 7, "user")
    delta = found["delta"]
    assert found["epsilon_released"] == epsilon_composed([Releases(1.5, 3 / 7, 2)], delta)
    both = [Releases(1.5, 3 / 7, 2), Releases(1.5, selector["rate"], selector["rounds"])]
    assert found["with_selector"]["epsilon_released"] == epsilon_composed(both, delta)
    assert found["with_selector"]["epsilon_server"] > max(found["epsilon_server"], selector["epsilon_server"])
    card = (aligned / "policy" / "README.md").read_text()
    assert f"User-level differential privacy: ε = {found['epsilon_released']:.3g} at δ = {delta:.2g}" in card
    together = found["with_selector"]["epsilon_released"]
    assert f"Selector and policy together, which are of the same users: ε = {together:.3g} at" in card
    assert "the change of the LoRA adapters left, clipped" in card
    page = report(aligned).page.read_text()
    assert "Privacy of the policy" in page
    assert "selector and policy together, epsilon_server" in page
    lines = history(aligned)
    assert [line["privacy"]["releases"] for line in lines] == [1, 2]
    assert not any(line["cohort"] or line["dropped"] or line["rejected"] for line in lines)
    assert {line["loss"] for line in lines} == {line["accuracy"] for line in lines} == {None}


@pytest.mark.end_to_end
def test_the_key_is_its_own_and_in_no_other_file(aligned: Path):
    first, second = (aligned / "checkpoints" / name for name in ("privacy.key", "policy-privacy.key"))
    assert first.read_bytes() != second.read_bytes()
    assert second.stat().st_mode & 0o777 == 0o600
    for file in aligned.rglob("*"):
        if file.is_file() and file != second:
            assert second.read_bytes() not in file.read_bytes(), file


@pytest.mark.equivalence
def test_a_round_that_is_run_again_releases_the_same_sum(aligned: Path, stopped: Path, tmp_path: Path):
    again = Path(shutil.copytree(stopped, tmp_path / "again"))
    align(again, resume=True)
    for name in ("policy/adapter_model.safetensors", "checkpoints/policy.safetensors"):
        one, two = load_file(aligned / name), load_file(again / name)
        assert all(one[key].equal(two[key]) for key in one), name
    assert notes_of(aligned)["privacy"] == notes_of(again)["privacy"]


@pytest.mark.unit
def test_it_goes_on_with_its_own_key_and_section_alone(stopped: Path, tmp_path: Path):
    lost, edited = (Path(shutil.copytree(stopped, tmp_path / name)) for name in ("lost", "edited"))
    (lost / "checkpoints" / "policy-privacy.key").unlink()
    with pytest.raises(RunError, match="noise and cohorts follow from it"):
        align(lost, resume=True)
    text = (edited / "config.yaml").read_text()
    (edited / "config.yaml").write_text(text.replace("noise_multiplier: 1.5", "noise_multiplier: 0.5"))
    with pytest.raises(RunError, match=r"made with privacy\.noise_multiplier"):
        align(edited, resume=True)
    remove_policies(RunFolder.open(lost))
    remove_policies(RunFolder.open(edited))
    assert not (edited / "checkpoints" / "policy-privacy.key").exists(), "a new training has a new key"
    assert (edited / "checkpoints" / "privacy.key").exists()


@pytest.mark.end_to_end
def test_what_the_server_looks_at_is_public(trained: Path, tmp_path: Path, monkeypatch):
    run, looked, plain = Path(shutil.copytree(trained, tmp_path / "run")), [], federated_job.look_prompts

    def look(settings, seed, prompts, **others):
        looked.append(list(prompts))
        return plain(settings, seed, prompts, **others)

    monkeypatch.setattr(federated_job, "look_prompts", look)
    monkeypatch.setattr(firm_method, "PROBE_PROMPTS", 2)
    firm = ("firm.rounds=1", "firm.cohort=2", "firm.steps=1", "firm.prompts=1", "firm.completions=2")
    small = (*firm, *ANY, "firm.max_new_tokens=40", "policy.lora_rank=2", "policy.candidates.validation_prompts=2")
    align(run, overrides=(*small, "policy.candidates.max_new_tokens=9"), method="scalar")
    assert looked == [[]], "nothing of what clients hold"
    (line,) = history(run)
    assert {line["kl"], line["vertex"], line["disagreement"], line["drift"]} == {None}


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("method", "override", "words"),
    [
        ("fedcmoo", "policy.lora_rank=3", "'fedcmoo' cannot be trained with noise"),
        ("feddpo", "policy.feddpo.averaging=svd", "no sum over clients has that"),
        ("feddpo", "policy.feddpo.cohort=8", "larger than the federation of 7 clients"),
        ("feddpo", "privacy.noise_multiplier=0.1", "cannot be changed"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(trained: Path, method: str, override: str, words: str):
    with pytest.raises(ConfigError, match=words):
        align(trained, overrides=(*OWN, override), method=method)
    assert not (trained / "policy").exists()
    assert not (trained / "checkpoints" / "policy-privacy.key").exists()


@pytest.mark.unit
def test_a_comparison_trains_with_noise_that_is_composed_with_its_selector(trained: Path, monkeypatch):
    folder, given = RunFolder.open(trained), {}
    config, spent = folder.config(OWN), dict(folder.metrics()["privacy"])
    monkeypatch.setattr(client_models, "FederatedJob", lambda *_, **others: given.update(others))
    monkeypatch.setattr(client_models, "train_in_memory", lambda *_: None)
    client_models.train_by_clients("feddpo", open_stage1(folder, config), config, None, spent)
    assert given["noise"].selector == spent
    assert given["noise"].privacy.terms.rounds == 2
    plain = config.model_copy(update={"privacy": PrivacyConfig()})
    client_models.train_by_clients("feddpo", open_stage1(folder, config), plain)
    assert given["noise"] is None
