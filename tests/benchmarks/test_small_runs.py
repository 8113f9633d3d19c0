"""The work of each benchmark that trains, at small size: a renamed function of the package must not leave it broken."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from fedvpa.runs.config import RunConfig, read_config
from run_fixtures import TINY, TINY_POLICY

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """By its file: one of them has the name of a module of Python."""
    spec = spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # data classes look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda *more: read_config(None, [*TINY, *more])


@pytest.mark.end_to_end
def test_a_codec_has_an_accuracy_and_bytes(config, monkeypatch):
    accuracy, up, down = load("codecs", monkeypatch).run(config())
    assert 0 <= accuracy <= 1
    assert up > 0 < down


@pytest.mark.end_to_end
def test_a_change_has_an_accuracy_on_validation_pairs(config, monkeypatch):
    ablation = load("ablation", monkeypatch)
    assert 0 <= ablation.pooled_accuracy(config(*ablation.VALIDATION)) <= 1


@pytest.mark.end_to_end
def test_the_honest_clients_have_an_accuracy(config, monkeypatch):
    assert 0 <= load("robustness", monkeypatch).honest_accuracy((config(), 0.2, 10.0)) <= 1


@pytest.mark.end_to_end
def test_a_choice_of_stage_2_has_win_rates(config, monkeypatch):
    found = load("policy_choices", monkeypatch).judged(config(*TINY_POLICY))
    assert 0 <= found["helpful"] <= 1
    assert found["step"] in (1, 2)


@pytest.mark.unit
@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_every_benchmark_can_be_imported(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    load(path.stem, monkeypatch)
