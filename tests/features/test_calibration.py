"""``features.dtype=calibrated``: bfloat16 where it was found to be faster and near enough, and the same ever after."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fedvpa.core.processes import Team
from fedvpa.features import calibration, precision
from fedvpa.features.backbone import load_backbone
from fedvpa.features.calibration import Calibration, calibrate, furthest
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import extract, load_features
from fedvpa.features.identity import folder_for
from fedvpa.features.precision import settled
from fedvpa.models.locate import locate
from fedvpa.runs.config import read_config
from fedvpa.runs.prepare import prepare
from run_fixtures import TINY

FASTER = Calibration(1.7, 0.016)


@pytest.fixture
def config(model_folder, tmp_path) -> FeatureConfig:
    return FeatureConfig(
        model=str(model_folder("qwen2")), layer=(0, -1), cache_dir=tmp_path, dtype="calibrated", storage="float32"
    )


@pytest.fixture
def measured(monkeypatch) -> list[int]:
    """How many pairs are measured from now on; bfloat16 is found to be faster. Five pairs are enough for that."""
    asked: list[int] = []
    monkeypatch.setattr(precision, "ENOUGH", 5)
    monkeypatch.setattr(precision, "calibrate", lambda pairs, *_: asked.append(len(pairs)) or FASTER)
    return asked


def clock(monkeypatch, *seconds: float) -> None:
    """What each part is said to take, in the order in which they are computed."""
    readings = iter([reading for part in seconds for reading in (0.0, part)])
    monkeypatch.setattr(calibration.time, "process_time", lambda: next(readings))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("found", "dtype", "line"),
    [
        (FASTER, "bfloat16", "bfloat16, 1.70 times as fast here as float32.*off by 1.6%"),
        (Calibration(1.25, 0.02), "bfloat16", "bfloat16, 1.25 times"),
        (Calibration(1.24, 0.01), "float32", "float32, since bfloat16 is 1.24 times as fast here, and 1.25 is asked"),
        (Calibration(0.2), "float32", "0.20 times as fast"),
        (Calibration(1.7, 0.021), "float32", "in bfloat16 differences .* off by 2.1%, and 2% is allowed"),
        (Calibration(1.7, problem="TypeError"), "float32", r"cannot be compared \(TypeError\)"),
    ],
)
def test_bfloat16_must_be_clearly_faster_and_near(found, dtype, line):
    assert found.dtype == dtype
    assert re.search(line, str(found))


@pytest.mark.unit
def test_the_worst_layer_decides_how_far_off_features_are():
    exact = np.array([[3.0, 4.0, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = exact + np.array([[0.0, 0.1, 0.0, 0.0], [0.0, 0.0, 0.0, 0.004]])
    assert furthest(found, exact, 2) == pytest.approx(0.04)
    assert furthest(found, exact, 1) == pytest.approx(np.sqrt(0.1**2 + 0.004**2) / np.sqrt(25.01))
    assert not np.isfinite(furthest(exact[1:], exact[1:], 2))


@pytest.mark.equivalence
def test_what_is_measured_is_what_extraction_would_give(config, table, monkeypatch):
    clock(monkeypatch, 9.0, 3.0, 4.0, 6.0, 10.0, 2.0, 2.5, 2.0)
    source = locate(config.model)
    found = calibrate(table.pairs, config, source)
    exact, half = (
        extract(table, load_backbone(one, source), one).differences()
        for one in (config.model_copy(update={"dtype": dtype}) for dtype in ("float32", "bfloat16"))
    )
    assert found.speed == pytest.approx(min(3 / 2, 4 / 2.5, 6 / 2))  # the first part only warms up
    assert found.error == pytest.approx(furthest(half, exact, 2), rel=0.2)  # other batches round otherwise
    assert found.error > 1e-3


@pytest.mark.unit
@pytest.mark.parametrize(("half", "speed"), [((5.0,), 0.4), ((2.0, 1.0, 2.0), 1.0)])
def test_nothing_more_is_computed_once_it_is_too_slow(config, table, monkeypatch, half, speed):
    clock(monkeypatch, 2.0, 2.0, 2.0, 2.0, *half)  # a further part would find no reading
    assert calibrate(table.pairs, config, locate(config.model)) == Calibration(speed)


@pytest.mark.unit
def test_a_model_without_bfloat16_stays_float32(config, table, monkeypatch):
    whole = calibration.load_backbone

    def refusing(asked, source):
        if asked.dtype == "bfloat16":
            raise NotImplementedError("no such kernel")
        return whole(asked, source)

    monkeypatch.setattr(calibration, "load_backbone", refusing)
    assert calibrate(table.pairs, config, locate(config.model)) == Calibration(0.0, problem="NotImplementedError")


@pytest.mark.unit
def test_it_is_measured_once_and_kept(config, table, measured, capsys):
    store = load_features(table, config)
    assert measured == [calibration.PAIRS]
    assert "features.dtype=calibrated: bfloat16, 1.70 times as fast" in capsys.readouterr().err
    named = config.model_copy(update={"dtype": "bfloat16"})
    np.testing.assert_array_equal(store.chosen, load_features(table, named).chosen)
    assert settled(config, table.select([0])) == named  # few pairs read as the many did
    assert folder_for(named, locate(config.model)).read() is not None
    assert len(measured) == 1


@pytest.mark.unit
def test_few_pairs_and_other_settings_measure_nothing(config, table, measured):
    assert settled(config, table.select([0, 1, 2, 3, 3, 3])).dtype == "float32"
    for dtype in ("auto", "float16"):
        other = config.model_copy(update={"dtype": dtype})
        assert settled(other, table) == other
    load_features(table, config.model_copy(update={"dtype": "auto"}))
    assert settled(config, table).dtype == "float32"  # everything is there
    assert not measured


@pytest.mark.unit
def test_processes_that_are_together_take_the_first_ones_answer(config, table, measured, monkeypatch):
    monkeypatch.setattr(precision, "current", lambda: Team(1, 2))
    monkeypatch.setattr(Team, "told", lambda _, value: value or "bfloat16")
    assert settled(config, table).dtype == "bfloat16"
    assert not measured


@pytest.mark.unit
def test_a_run_names_what_was_taken():
    assert prepare(read_config(None, (*TINY, "features.dtype=calibrated"))).features.dtype == "float32"
