"""Alarms about latents reach whoever trains, and whoever goes on to align."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedvpa.api.align import align
from fedvpa.api.train import train
from fedvpa.evaluation.latents import diagnose
from fedvpa.runs.config import RunConfig
from run_fixtures import TINY_POLICY


@pytest.mark.end_to_end
def test_alarms_are_printed_after_training_and_before_aligning(
    tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hours of stage 2 are not to be spent on a z that says nothing, without a word."""
    alarm = "All 7 clients share one of 2 prototypes."
    means = np.random.default_rng(0).normal(size=(7, 3))
    report = replace(diagnose(means, np.zeros((7, 3))), alarms=(alarm,))
    monkeypatch.setattr("fedvpa.runs.scores.latents", lambda config, done: report)
    train(tiny, tmp_path / "run")
    assert f"ALARM: the latents of fedeb: {alarm}" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["latents"]["alarms"] == [alarm]

    def stop(*arguments: object, **options: object) -> None:
        raise KeyError("the job would start here")

    monkeypatch.setattr("fedvpa.alignment.dpo_job.DPOJob", stop)
    with pytest.raises(KeyError, match="the job would start here"):
        align(tmp_path / "run", overrides=TINY_POLICY)
    assert f"ALARM: the latents of fedeb: {alarm}" in capsys.readouterr().err
