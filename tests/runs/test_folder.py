import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedvpa.api.align import align
from fedvpa.api.train import resume, train
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.runs.config import RunConfig, with_overrides
from fedvpa.runs.folder import TRAINED, RunFolder
from fedvpa.runs.prepare import prepare


def test_one_program_at_a_time_holds_a_run(tmp_path: Path):
    run = RunFolder.at(tmp_path / "run")
    with run.locked() as held:
        assert held is run
        with pytest.raises(RunError, match="run: another program writes to it"), RunFolder(run.path).locked():
            pass
    with run.locked():
        pass


def test_what_writes_to_a_run_refuses_one_that_is_held(finished: Path, tiny: RunConfig, tmp_path: Path):
    run = RunFolder(Path(shutil.copytree(finished, tmp_path / "run")))
    (run.path / "metrics.json").unlink()
    small = (
        "policy.steps=1",
        "policy.batch=2",
        "policy.candidates.prompts=8",
        "policy.candidates.validation_prompts=4",
    )
    with run.locked():
        for write in (
            lambda: train(tiny, run.path, overwrite=True),
            lambda: resume(run.path),
            lambda: align(run.path, overrides=small),
        ):
            with pytest.raises(RunError, match="another program writes to it"):
                write()
    assert run.checkpoint.is_file()
    assert not run.policy.exists()


def test_training_keeps_a_run_that_came_while_it_prepared(
    finished: Path, tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def meanwhile(config: RunConfig, **given: Any):
        shutil.copytree(finished, tmp_path / "run")
        return prepare(config, **given)

    monkeypatch.setattr("fedvpa.runs.prepare.prepare", meanwhile)
    with pytest.raises(RunError, match="holds a run already"):
        train(tiny, tmp_path / "run")
    assert (tmp_path / "run" / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()


def test_a_run_is_a_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file: is a file, and a run is a folder"):
        RunFolder.at(tmp_path / "file")


@pytest.mark.parametrize("section", TRAINED)
def test_what_a_run_was_trained_with_cannot_be_overridden(finished: Path, section: str):
    key = section if section == "method" else f"{section}.anything"
    with pytest.raises(ConfigError, match=f"{key} cannot be changed: the run was trained with what it says"):
        RunFolder.open(finished).config(["policy.steps=3", f"{key}=1"])


def test_where_things_are_and_stage_2_can_be_overridden(finished: Path):
    config = RunFolder.open(finished).config(["policy.steps=3", "features.device=cpu"])
    assert (config.policy.steps, config.features.device) == (3, "cpu")


def test_a_second_align_is_refused_before_it_samples(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first one holds the run from its first line on, and so does its resume."""
    run = RunFolder(Path(shutil.copytree(finished, tmp_path / "run")))

    def never(*_, **__):
        raise AssertionError("work was done for an align that cannot write")

    monkeypatch.setattr("fedvpa.runs.stage1.open_selector", never)
    with run.locked():
        for method in (None, "feddpo"):
            with pytest.raises(RunError, match="another program writes to it"):
                align(run.path, method=method)


def test_a_checkpoint_of_a_release_without_a_key_has_its_default(tiny: RunConfig, tmp_path: Path):
    run, saved = RunFolder(tmp_path), tiny.model_dump(mode="json")
    del saved["privacy"], saved["engine"]["secure_aggregation"], saved["policy"]["guard"]["min_distinct"]
    run.check_config(tiny, saved)
    noised = with_overrides(tiny, ["privacy.noise_multiplier=1"])
    with pytest.raises(RunError, match=r"says privacy\.noise_multiplier = 1.0, and the checkpoint was made with –"):
        run.check_config(noised, saved)


def test_where_noise_hides_who_took_part_the_federation_is_counted(finished: Path, tmp_path: Path):
    run = RunFolder(Path(shutil.copytree(finished, tmp_path / "run")))
    assert run.clients_trained() == len(run.trained_clients()) > 0
    metrics = json.loads((run.path / "metrics.json").read_text())
    (run.path / "metrics.json").write_text(json.dumps(metrics | {"privacy": {"clients": 7}}))
    assert run.clients_trained() == 7
