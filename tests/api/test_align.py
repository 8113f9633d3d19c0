"""Stage 2 of a run: what it leaves behind, and that stopping it changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from command_line import fedvpa
from fedvpa.alignment import setup
from fedvpa.alignment.dpo_job import DPOJob
from fedvpa.alignment.prompts import public_prompts
from fedvpa.alignment.setup import base_candidates, first_pairs, fresh_policy
from fedvpa.alignment.stage1 import Stage1
from fedvpa.api.align import align
from fedvpa.api.export import export_candidates
from fedvpa.api.train import train
from fedvpa.core.errors import AlignmentError, ConfigError, DataError, ModelError, RunError
from fedvpa.core.signals import Interrupted
from fedvpa.runs.config import RunConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.stage1 import open_stage1
from fedvpa.world import backbone_path

SMALL = (
    "policy.steps=6",
    "policy.batch=4",
    "policy.lora_rank=2",
    "policy.prefix_tokens=3",
    "policy.evaluate_every=3",
    "policy.checkpoint_every=2",
    "policy.candidates.prompts=12",
    "policy.candidates.validation_prompts=5",
    "policy.candidates.samples=3",
    "policy.candidates.max_new_tokens=19",
    "policy.preferences.margin=0",
    "policy.preferences.check=warn",
    "policy.guard.max_kl=1000",
    "policy.guard.max_drop=1000",
    "policy.guard.min_distinct=0",
    "policy.preferences.pairs_per_latent=1",
)
REFRESHED = (*SMALL, "policy.refresh_every=3")
POLICY = ("adapter_model.safetensors", "z_conditioner.safetensors")


def stage_of(run: Path, *overrides: str) -> Stage1:
    folder = RunFolder.open(run)
    return open_stage1(folder, folder.config((*SMALL, *overrides)))


def trained(tiny: RunConfig, method: str, out: Path) -> Path:
    train(tiny.with_method(method), out)
    return out


@pytest.fixture(scope="module")
def aligned(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both stages; to read only."""
    run = shutil.copytree(finished, tmp_path_factory.mktemp("aligned") / "run")
    align(run, overrides=SMALL)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A run that is not aligned yet."""
    return shutil.copytree(finished, tmp_path / "run")


def history(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "policy" / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def same_policy(first: Path, second: Path) -> None:
    names = [f"policy/{name}" for name in POLICY] + ["checkpoints/policy.safetensors"]
    for name in names:
        ours, theirs = load_file(first / name), load_file(second / name)
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(theirs[key]) for key in ours), name
    assert history(first) == history(second)
    metrics = [json.loads((run / "policy" / "metrics.json").read_text())["policies"][""] for run in (first, second)]
    assert metrics[0] | {"seconds": 0} == metrics[1] | {"seconds": 0}


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A SIGINT to this process while it works on the step."""
    ordinary = DPOJob.run

    def interrupted(self):
        for line in ordinary(self):
            if line["step"] == step:
                os.kill(os.getpid(), signal.SIGINT)
            yield line

    monkeypatch.setattr(DPOJob, "run", interrupted)


@pytest.mark.end_to_end
def test_an_aligned_run_holds_what_others_read(aligned: Path):
    files = {str(path.relative_to(aligned)) for path in (aligned / "policy").rglob("*") if path.is_file()}
    assert files == {
        f"policy/{name}"
        for name in (
            "README.md", "adapter_config.json", "adapter_model.safetensors", "history.jsonl", "metrics.json",
            "policy.json", "preferences.json", "z_conditioner.safetensors",
        )
    }  # fmt: skip
    lines = history(aligned)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "validation" in line] == [3, 6]
    assert {"loss", "accuracy", "chosen", "rejected", "lr", "gradient_norm", "by_prototype"} < lines[0].keys()
    metrics = json.loads((aligned / "policy" / "metrics.json").read_text())
    found = metrics["policies"][""]
    assert metrics["method"] == "fedeb"
    assert metrics["data"] == json.loads((aligned / "metrics.json").read_text())["data"]
    assert metrics["data"]["read"] > 0
    assert found["steps"] == 6
    assert lines[0]["labels"] == found["labels"]
    assert found["labels"]["by"] == "the exact judge 'world'"
    assert (lines[0]["start"]["step"], lines[0]["start"]["win_rate"], lines[0]["start"]["kl"]) == (0, 0.5, 0.0)
    looks = [line["validation"] for line in lines if "validation" in line]
    assert (found["looks"], found["admissible"]) == (2, sum(not look["refused"] for look in looks))
    assert found["stopped"] in [lines[0]["start"], *looks]
    # 12 prompts, 2 latents each, 3 pairs of 3 samples.
    counts = found["pairs"]
    assert counts["pairs"] == 72
    assert 0 < counts["kept"] <= 24
    assert counts["kept"] % 2 == 0
    card = (aligned / "policy" / "README.md").read_text()
    assert "fedeb" in card
    assert "7 clients" in card
    assert "This run was a simulation: one machine held the pairs of all 7 users" in card
    assert "Stage 2 trained on the bundled world's own prompts" in card
    assert "stayed" not in card
    named = json.loads((aligned / "policy" / "preferences.json").read_text())
    assert {name: len(z) for name, z in named.items()} == {"helpful": 13, "harmless": 13}


@pytest.mark.equivalence
@pytest.mark.parametrize("step", [2, 5])
def test_stopped_and_resumed_equals_uninterrupted(step: int, aligned: Path, run: Path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Interrupted, match=f"SIGINT: stopped after step {step} of 6; .* --resume") as stopped:
            align(run, overrides=SMALL)
    assert stopped.value.exit_code == 130
    assert SMALL[0] in str(stopped.value)
    assert len(history(run)) == step
    assert not (run / "policy" / "metrics.json").exists()
    align(run, resume=True)  # with the settings of the checkpoint
    same_policy(aligned, run)


@pytest.mark.equivalence
def test_a_run_with_refreshes_resumes_too(run: Path, finished: Path, tmp_path: Path, aligned: Path, monkeypatch):
    align(run, overrides=REFRESHED)
    assert history(run)[:3] == history(aligned)[:3]
    assert history(run)[3:] != history(aligned)[3:]
    other = shutil.copytree(finished, tmp_path / "stopped")
    with monkeypatch.context() as patch:
        stop_at(patch, 5)  # after the refresh, of whose policy only the samples are left
        with pytest.raises(Interrupted):
            align(other, overrides=REFRESHED)
    align(other, overrides=REFRESHED, resume=True)
    same_policy(run, other)


@pytest.mark.end_to_end
def test_labels_that_are_luck_stop_a_run_before_anything_is_trained(run: Path):
    with pytest.raises(
        AlignmentError, match=r"fail the check before the first step\. .* cannot be told from luck"
    ) as stopped:
        align(run, overrides=(*SMALL, "policy.preferences.check=stop"))
    assert stopped.value.exit_code == 1
    assert not (run / "policy").exists()


@pytest.mark.end_to_end
def test_a_collapse_ends_with_the_base_and_is_said_in_the_files(run: Path):
    with pytest.raises(AlignmentError, match=r"run: the policy collapsed: .*KL of .*policy\.guard\.max_kl") as stopped:
        align(run, overrides=(*SMALL, "policy.guard.max_kl=1e-6", "policy.lr=0.01"))
    assert stopped.value.exit_code == 1
    found = json.loads((run / "policy" / "metrics.json").read_text())["policies"][""]
    assert (found["stopped"]["step"], found["looks"], found["admissible"]) == (0, 2, 0)
    assert "policy.guard.max_kl" in found["collapsed"]
    factors = load_file(run / "policy" / "adapter_model.safetensors")
    assert not any(weight.any() for name, weight in factors.items() if "lora_B" in name)


@pytest.mark.end_to_end
def test_what_the_policy_says_is_written_for_users_to_label(run: Path, tmp_path: Path):
    made = export_candidates(run, tmp_path / "ask.jsonl", pairs=5, user="ann", overrides=SMALL)
    rows = [json.loads(line) for line in (tmp_path / "ask.jsonl").read_text().splitlines()]
    assert made.to_dict() == {"file": str(tmp_path / "ask.jsonl"), "pairs": len(rows), "disputed": made.disputed}
    assert 0 < len(rows) <= 5
    assert 0 <= made.disputed <= len(rows)
    for row in rows:
        assert (row["user_id"], row["winner"]) == ("ann", None)
        assert row["response_a"] != row["response_b"]
    assert len({row["prompt"] for row in rows}) == len(rows)
    with pytest.raises(RunError, match="perhaps with labels"):
        export_candidates(run, tmp_path / "ask.jsonl", overrides=SMALL)
    with pytest.raises(ConfigError, match="Give at least 1"):
        export_candidates(run, tmp_path / "other.csv", pairs=0)


@pytest.mark.unit
def test_a_policy_is_not_replaced_unasked(aligned: Path):
    before = (aligned / "policy" / "metrics.json").read_bytes()
    with pytest.raises(RunError, match="overwrite=True"):
        align(aligned, overrides=SMALL)
    assert (aligned / "policy" / "metrics.json").read_bytes() == before


@pytest.mark.unit
def test_overwriting_leaves_nothing_to_resume_by_mistake(aligned: Path, tmp_path: Path, monkeypatch):
    run = shutil.copytree(aligned, tmp_path / "run")

    def fails(self):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(DPOJob, "run", fails)
    with pytest.raises(KeyboardInterrupt):
        align(run, overrides=SMALL, overwrite=True)
    assert not (run / "checkpoints" / "policy.safetensors").exists()
    assert not (run / "policy" / "metrics.json").exists()
    assert (run / "checkpoints" / "last.safetensors").exists()


@pytest.mark.unit
def test_training_again_removes_the_policy_of_the_old_selector(aligned: Path, tiny: RunConfig, tmp_path: Path):
    run = shutil.copytree(aligned, tmp_path / "run")
    train(tiny, run, overwrite=True)
    assert not (run / "policy").exists()


def never_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, the constructor of a job, which samples, fails the test."""
    for job in ("dpo_job.DPOJob", "federated_job.FederatedJob"):
        monkeypatch.setattr(f"fedvpa.alignment.{job}.__init__", lambda *_, **__: pytest.fail("a job was made"))


@pytest.mark.unit
def test_resuming_what_is_another_run_is_refused_before_anything_is_sampled(
    aligned: Path, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(message: str, *overrides: str, method: str | None = None) -> None:
        before = (run / "checkpoints" / "policy.safetensors").read_bytes()
        with pytest.raises(RunError, match=rf"policy\.safetensors: was made with {message}, so going on"):
            align(run, overrides=overrides, method=method, resume=True)
        assert (run / "checkpoints" / "policy.safetensors").read_bytes() == before

    run = shutil.copytree(aligned, tmp_path / "run")
    never_sampled(monkeypatch)
    refused(r"policy\.beta = 1\.0 \(now 0\.5\)", "policy.beta=0.5")
    refused(
        r"policy\.candidates\.samples = 3 \(now 4\), policy\.steps = 6 \(now 7\)",
        "policy.steps=7",
        "policy.candidates.samples=4",
    )
    refused("another seed", "seed=1")
    refused("another method, another selector, other users", method="feddpo")
    with monkeypatch.context() as patch:
        patch.setattr("fedvpa.runs.identity.__version__", "0.0")
        refused(r"version of fedvpa = [0-9.]+ \(now 0\.0\)")
    again = trained(
        tiny.model_copy(update={"server": tiny.server.model_copy(update={"rounds": 4})}),
        "fedvpa_gp",
        tmp_path / "again",
    )
    shutil.copytree(again / "selector", run / "selector", dirs_exist_ok=True)
    refused("another selector")
    (run / "checkpoints" / "policy.safetensors").write_bytes(b"half of it")
    with pytest.raises(RunError, match=r"policy\.safetensors: is damaged"):
        align(run, resume=True)


@pytest.fixture
def stopped(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose ``align``, with prompts of a file and a base policy of its own, stopped at its second step."""
    shutil.copytree(backbone_path(), tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("".join(f"how do i plan picnic {number} ?\n" for number in range(40)))
    places = (f"policy.candidates.prompt_file={tmp_path / 'prompts.txt'}", f"policy.model={tmp_path / 'model'}")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(Interrupted):
            align(run, overrides=(*SMALL, *places))
    return run


@pytest.mark.end_to_end
def test_a_resumed_policy_keeps_its_settings_wherever_its_files_are_now(stopped: Path, tmp_path: Path):
    found = (tmp_path / "prompts.txt").rename(tmp_path / "moved.txt")
    (tmp_path / "model").rename(tmp_path / "moved")
    places = (f"policy.candidates.prompt_file={found}", f"policy.model={tmp_path / 'moved'}")
    align(stopped, overrides=places, resume=True)
    assert [line["step"] for line in history(stopped)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.unit
def test_an_edited_prompt_file_or_model_is_noticed_before_anything_is_sampled(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    never_sampled(monkeypatch)
    prompts, model = tmp_path / "prompts.txt", tmp_path / "model"
    whole = prompts.read_text()
    prompts.write_text(whole.replace("picnic 7 ", "picnic 70 "))
    with pytest.raises(
        RunError, match=r"made with other content of the prompt file \(policy\.candidates\.prompt_file\)"
    ):
        align(stopped, resume=True)
    prompts.unlink()
    with pytest.raises(DataError, match=r"prompts\.txt: cannot be read"):
        align(stopped, resume=True)
    prompts.write_text(whole)
    weights = load_file(model / "model.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in weights.items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match=r"other weights, tokenizer or template of the base policy \(policy\.model\)"):
        align(stopped, resume=True)


@pytest.mark.unit
def test_candidates_that_come_out_differently_are_refused(stopped: Path, monkeypatch: pytest.MonkeyPatch):
    ordinary = setup.load_or_make

    def other_draws(path: Path, make):
        found = ordinary(path, make)
        return replace(found, responses=[group[::-1] for group in found.responses])

    monkeypatch.setattr(setup, "load_or_make", other_draws)
    before = (stopped / "checkpoints" / "policy.safetensors").read_bytes()
    with pytest.raises(RunError, match="made with other candidates than the base policy has given now"):
        align(stopped, resume=True)
    assert (stopped / "checkpoints" / "policy.safetensors").read_bytes() == before


@pytest.mark.unit
def test_a_checkpoint_of_a_policy_by_an_earlier_release_says_so(aligned: Path, tmp_path: Path):
    run = shutil.copytree(aligned, tmp_path / "run")
    path = run / "checkpoints" / "policy.safetensors"
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    identity = json.dumps({**json.loads(header["identity"]), "version of fedvpa": "0.1.7"})
    save_file(load_file(path), path, {**header, "schema_version": "2", "identity": identity})
    with pytest.raises(RunError, match=r"version 2; this fedvpa reads 4\. Go on with fedvpa 0\.1\.7, which wrote it"):
        align(run, resume=True)


@pytest.mark.unit
def test_resuming_nothing_and_starting_over_something_are_refused(run: Path, monkeypatch):
    with pytest.raises(RunError, match="holds no checkpoint of a policy"):
        align(run, overrides=SMALL, resume=True)
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(Interrupted):
            align(run, overrides=SMALL)
    before = (run / "checkpoints" / "policy.safetensors").read_bytes()
    with pytest.raises(RunError, match=r"not finished\. Go on with resume=True, or give overwrite=True"):
        align(run, overrides=SMALL)
    assert (run / "checkpoints" / "policy.safetensors").read_bytes() == before


@pytest.mark.unit
def test_a_run_without_a_selector_says_how_to_go_on(finished: Path, tmp_path: Path):
    with pytest.raises(RunError, match=r"config\.yaml is missing"):
        align(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(finished / "config.yaml", run)
    with pytest.raises(RunError, match="fedvpa train --resume"):
        align(run)


@pytest.mark.unit
def test_a_policy_is_not_removed_for_one_that_cannot_be_trained(aligned: Path):
    before = sorted(path for path in aligned.rglob("*") if path.is_file())
    with pytest.raises(DataError, match="No preference pair is left"):
        align(aligned, overrides=(*SMALL, "policy.preferences.margin=99"), overwrite=True)
    assert sorted(path for path in aligned.rglob("*") if path.is_file()) == before


@pytest.mark.unit
def test_a_margin_that_nothing_reaches_says_what_it_took_and_writes_no_policy(run: Path):
    with pytest.raises(DataError, match=r"No preference pair is left of 72: .* below 99.0 standard deviations"):
        align(run, overrides=(*SMALL, "policy.preferences.margin=99"))
    assert not (run / "policy" / "metrics.json").exists()


@pytest.mark.unit
def test_another_language_model_than_the_selectors_is_refused(run: Path, tmp_path: Path):
    other = shutil.copytree(backbone_path(), tmp_path / "model")
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 1e-5}))
    with pytest.raises(ModelError, match="selector was trained on features"):
        align(run, overrides=(*SMALL, f"features.model={other}"))


@pytest.mark.end_to_end
def test_a_policy_with_another_tokenizer_is_allowed_and_said(run: Path, tmp_path: Path, capsys):
    other = shutil.copytree(backbone_path(), tmp_path / "model")
    told = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**told, "note": "another"}))
    align(run, overrides=(*SMALL, "policy.steps=1", f"policy.model={other}"))
    assert "tokenizer is not the selector's" in capsys.readouterr().err
    saved = json.loads((run / "policy" / "policy.json").read_text())
    assert saved["model"] == saved["settings"]["model"] == other.name
    assert str(other) not in "".join(file.read_text() for file in (run / "policy").glob("*.json"))


@pytest.mark.end_to_end
@pytest.mark.parametrize("method", ["global", "fedbiscuit", "oracle", "fedvpl"])
def test_other_methods_align_too(method: str, tiny: RunConfig, tmp_path: Path):
    run = trained(tiny, method, tmp_path / "run")
    found = align(run, overrides=(*SMALL, "policy.steps=2")).to_dict()
    groups = {"helpful", "harmless"}
    assert set(found["policies"]) == (groups if method == "oracle" else {""})
    for name, policy in found["policies"].items():
        folder = run / "policy" / name
        assert json.loads((folder / "policy.json").read_text())["preference"] == name
        assert (folder / "z_conditioner.safetensors").exists() == (method == "fedvpl")
        # As many pairs per prompt as the others get from two latents, if there are as many without a shared response.
        assert policy["pairs"]["pairs"] == (72 if method == "fedvpl" else 36)
    assert set(json.loads((run / "policy" / "preferences.json").read_text())) == groups


@pytest.mark.unit
@pytest.mark.parametrize("method", ["finetune", "local"])
def test_a_method_without_one_selector_has_no_policy(method: str, tiny: RunConfig, tmp_path: Path):
    run = trained(tiny, method, tmp_path / "run")
    with pytest.raises(ConfigError, match=f"'{method}' has a selector per client and no one policy"):
        align(run, overrides=SMALL)


@pytest.fixture(scope="module")
def stage(finished: Path) -> Stage1:
    return stage_of(finished)


@pytest.mark.unit
def test_prompts_to_align_on_and_to_stop_by_are_disjoint_and_named_by_the_seed(finished: Path, stage: Stage1):
    texts, held = public_prompts(stage)
    assert (len(texts), len(held)) == (12, 5)
    assert not set(texts) & set(held)
    assert public_prompts(stage_of(finished)) == (texts, held)


@pytest.mark.unit
def test_prompts_of_a_file_are_shared_out(finished: Path, tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"how do i plan picnic {number} ?\n\n" for number in range(40)) * 2)
    texts, held = public_prompts(
        stage_of(finished, f"policy.candidates.prompt_file={path}", "policy.candidates.prompts=99")
    )
    assert len(set(texts)) == len(texts)
    assert not set(texts) & set(held)
    assert 0 < len(held) <= 5
    path.write_text("one ?\n")
    with pytest.raises(DataError, match="0 prompts to align on and 0 to stop by are too few"):
        public_prompts(stage_of(finished, f"policy.candidates.prompt_file={path}"))
    with pytest.raises(DataError, match=r"nowhere\.txt"):
        public_prompts(stage_of(finished, f"policy.candidates.prompt_file={tmp_path / 'nowhere.txt'}"))


@pytest.mark.end_to_end
def test_pairs_of_a_data_set_are_candidates_too(run: Path):
    overrides = (*SMALL, "policy.steps=1", "policy.candidates.source=pairs")
    path = run / "prompts.txt"
    table = stage_of(run).pairs.table
    prompts = {str(pair.prompt) for pair in table.pairs}
    path.write_text("".join(f"{prompt}\n" for prompt in sorted(prompts)))
    found = align(run, overrides=(*overrides, f"policy.candidates.prompt_file={path}"))
    assert found.policies[""].notes["pairs"]["kept"] > 0


@pytest.mark.unit
def test_named_preferences_are_those_that_the_groups_users_lean_to(stage: Stage1):
    named = stage.named_preferences()
    for name, z in named.items():
        rows = [row for row, group in enumerate(stage.seen.groups) if group == name]
        leaning = int(stage.seen.posterior.weights[rows].mean(0).argmax())
        assert stage.selector.prototypes[leaning].tolist() == z


@pytest.mark.unit
def test_monolithic_methods_get_as_many_pairs_per_prompt(stage: Stage1, tiny: RunConfig, tmp_path: Path):
    one = stage_of(trained(tiny, "global", tmp_path / "run"))
    texts, _ = public_prompts(stage)
    candidates = base_candidates(stage, fresh_policy(stage), texts, "train")
    ours, theirs = first_pairs(stage, "", candidates), first_pairs(one, "", candidates)
    assert ours.examples.z.shape[1] == 13
    assert theirs.examples.z is None
    # Three samples allow one pair without a shared response; the personal method takes it at each of its two latents.
    assert theirs.counts["kept"] <= 12 < ours.counts["kept"] <= 24


@pytest.mark.equivalence
@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_stopped_with_other_threads_resumes_bit_for_bit(
    threads: int, run: Path, finished: Path, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(self, ordinary=DPOJob.run):
        for line in ordinary(self):
            if line["step"] == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            yield line

    torch.set_num_threads(threads)
    with monkeypatch.context() as patch:
        patch.setattr(DPOJob, "run", interrupted)
        stopped = fedvpa("align", run, *SMALL)
    assert stopped.returncode == 143, stopped.stderr
    assert "SIGTERM: stopped after step 4 of 6" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    whole = aligned  # on one thread
    if threads != 1:
        whole = shutil.copytree(finished, tmp_path / "whole")
        align(whole, overrides=SMALL)
    torch.set_num_threads(3 - threads)  # what a process here has by default is not what the run had
    align(run, overrides=SMALL, resume=True)
    assert torch.get_num_threads() == threads
    same_policy(whole, run)


@pytest.mark.unit
def test_a_checkpoint_of_an_earlier_release_says_what_exactness_needs(aligned: Path, tmp_path: Path, capsys):
    run = shutil.copytree(aligned, tmp_path / "run")
    path = run / "checkpoints" / "policy.safetensors"
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    save_file(load_file(path), path, {name: value for name, value in header.items() if name != "compute"})
    align(run, overrides=SMALL, resume=True)
    assert "does not say with how many threads it was made" in capsys.readouterr().err


@pytest.mark.unit
@pytest.mark.parametrize("method", ["fedem", "fedvpl", "oracle", "global"])
def test_a_run_of_an_earlier_release_is_aligned_from_its_data(method: str, tiny: RunConfig, tmp_path: Path, capsys):
    """Those releases kept no users; ``fedeb`` came later."""
    run = trained(tiny, method, tmp_path / "run")
    kept = stage_of(run).seen
    (run / "clients" / "users.safetensors").unlink()
    again = stage_of(run).seen
    assert "written by an earlier release" in capsys.readouterr().err
    assert again.groups == kept.groups
    assert torch.equal(again.posterior.means, kept.posterior.means)
    assert torch.equal(again.posterior.weights, kept.posterior.weights)


@pytest.mark.unit
def test_a_run_is_aligned_without_features_or_partition_again(run: Path, aligned: Path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("stage 1 was prepared again")

    for name in ("fedvpa.runs.prepare.load_features", "fedvpa.runs.prepare.partition"):
        monkeypatch.setattr(name, never)
    align(run, overrides=SMALL)
    same_policy(aligned, run)


@pytest.mark.unit
def test_other_data_than_the_runs_are_refused(run: Path):
    with pytest.raises(RunError, match="trained on other pairs than its data now give"):
        align(run, overrides=(*SMALL, "data.seed=1"))
    with pytest.raises(ConfigError, match=r"partition\.clients.*cannot be changed"):
        align(run, overrides=(*SMALL, "partition.clients=5"))
