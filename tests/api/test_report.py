import html
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from evaluation.made_scores import by_hand
from evaluation.policies import made_up
from fedvpa.api.report import report
from fedvpa.core.errors import InputError, RunError
from fedvpa.core.files import write_json
from fedvpa.core.schema import VERSIONS
from fedvpa.evaluation.accuracy_tables import comparison
from fedvpa.evaluation.win_rates import policy_comparison
from fedvpa.runs.config import read_config
from fedvpa.runs.folder import RunFolder


def test_a_folder_without_a_result_says_what_to_do_next(tmp_path: Path):
    run, comparison, other = tmp_path / "my run", tmp_path / "table", tmp_path / "other"
    RunFolder(run).checkpoint.parent.mkdir(parents=True)
    RunFolder(run).checkpoint.touch()
    (comparison / "cells").mkdir(parents=True)
    other.mkdir()
    with pytest.raises(RunError, match=f"fedvpa train --resume '{run}'"):
        report(run)
    with pytest.raises(RunError, match=f"fedvpa compare --out {comparison} again"):
        report(comparison)
    with pytest.raises(RunError, match="Give a finished run or comparison"):
        report(other)


def words(page: Path) -> str:
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", text))


@pytest.mark.end_to_end
def test_the_report_of_a_run_repeats_its_own_command_and_shows_no_stage_that_was_not_run(
    finished: Path, tmp_path: Path
):
    run = tmp_path / "a run"
    shutil.copytree(finished, run)
    said = words(report(run).page)
    (command,) = re.findall(r"fedvpa train .*?--out '[^']*'", said)
    given = shlex.split(command)[2:-2]
    assert read_config(None, given) == RunFolder.open(run).config()
    assert "fedvpa report" not in said
    assert "policy.steps" not in said.replace(command, "")
    assert "Stage 2 was not run here" in said
    assert "No global model was trained here" in said
    assert "with one seed, nothing is said about the method" in said
    assert (run / "figures" / "accuracy_7_clients.png").is_file()


@pytest.mark.end_to_end
def test_the_report_of_an_aligned_run_shows_the_policy_and_the_settings_it_was_trained_with(
    finished: Path, tmp_path: Path
):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    look = {"step": 2, "win_rate": 0.8, "error": 0.05, "kl": 1.5, "tokens": 9.0}
    notes = {"pairs": {"pairs": 9, "kept": 4, "switched": 1, "margin": 5}, "stopped": look, "steps": 2, "seconds": 1.0}
    (run / "policy").mkdir()
    metrics = {"schema_version": 1, "method": "fedeb", "policies": {"": notes}, "data": None}
    write_json(run / "policy" / "metrics.json", metrics)
    settings = RunFolder.open(run).config(["policy.steps=2", "policy.lora_rank=3"]).policy.model_dump(mode="json")
    write_json(run / "policy" / "policy.json", {"schema_version": VERSIONS["policy"], "settings": settings})
    (run / "policy" / "history.jsonl").write_text(json.dumps({"step": 2, "validation": look}) + "\n")
    said = words(report(run).page)
    assert "The policy of fedeb stopped at step 2" in said
    assert "4 of 9" in said
    assert f"fedvpa align {run} policy.lora_rank=3 policy.steps=2 --overwrite" in said
    assert "policy.lora_rank 3" in said
    assert "Stage 2 was not run" not in said
    assert (run / "figures" / "validation_policy.png").is_file()
    judged = policy_comparison(made_up(prompts=11), {}).to_dict()
    write_json(run / "policy" / "metrics.json", metrics | judged | {"policy_judge": "world"})
    said = words(report(run).page)
    assert "Judged for helpful, answers of fedvpa_gp" in said
    assert "no judge has been asked" not in said
    assert "policy.lora_rank 3" in said
    assert (run / "figures" / "win_rates_7_clients.png").is_file()


@pytest.mark.end_to_end
def test_a_comparison_keeps_the_figures_that_it_was_made_with(tmp_path: Path):
    point = {"method": "m", "n_clients": 2, "context_pairs": 1, "mean": 0.7, "ci95": None, "method_ci95": None}
    kept = {
        "title": "Made by hand",
        "command": "fedvpa demo --out here",
        "few_shot": [point | {"clients": 3}, point | {"clients": 3, "context_pairs": 4}],
        "latent_map": {
            "means": [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]],
            "groups": ["a", "b", "a"],
            "prototypes": [[0.0, 1.0]],
            "caption": "By hand.",
        },
        "bayes": {"all clients": 0.9},
    }
    write_json(tmp_path / "comparison.json", comparison(by_hand(), {}).to_dict() | kept)
    said = words(report(tmp_path).page)
    assert "Made by hand" in said
    assert "fedvpa demo --out here" in said
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"few_shot", "latent_map", "accuracy_2_clients"} <= drawn


@pytest.mark.unit
@pytest.mark.parametrize("name", ["metrics.json", "environment.json", "history.jsonl", "config.yaml"])
@pytest.mark.parametrize("content", [b"{'half': [", b"\xff\xfe\0junk", b"[1]"])
def test_a_damaged_file_of_a_run_is_one_message(name: str, content: bytes, finished: Path, tmp_path: Path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{re.escape(name)}"):
        report(run)
