"""The work of each benchmark that trains, at small size: a renamed function of the package must not leave it broken."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from fedvpa.algorithms.config import MethodConfig
from fedvpa.engines.config import EngineConfig
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


@pytest.mark.end_to_end
def test_a_front_has_rewards_kept_answers_and_a_table(config, monkeypatch, tmp_path):
    fronts = load("fronts", monkeypatch)
    monkeypatch.setattr(fronts, "PATH", (0.0, 1.0))
    own = ("data.pairs_per_user=11", "partition.clients=4", "partition.min_train=1", "server.rounds=2", *TINY_POLICY)
    options = fronts.Options(tmp_path, 3, 2, float("inf"), own, ())
    rewards = fronts.collect(options, ["fedvpa_gp"], [5])
    assert rewards[5]["fedvpa_gp"].shape == (2, 3, 2)
    assert rewards[5][fronts.BASE].shape == (3, 2)
    monkeypatch.setattr(fronts, "opened", None)  # nothing is trained or answered again
    again = fronts.collect(replace(options, until=0.0), ["fedvpa_gp"], [5])
    assert (again[5]["fedvpa_gp"] == rewards[5]["fedvpa_gp"]).all()
    fronts.leave(options, ["fedvpa_gp"], rewards)
    (row,) = (tmp_path / "fronts.md").read_text().splitlines()[2:]
    assert row.startswith("| fedvpa_gp | ")
    told = json.loads((tmp_path / "fronts.json").read_text())
    assert told["fronts"][0]["preferences"] == [[0, 1], [1, 0]]
    assert told["traffic"]["fedvpa_gp"]["uplink_bytes"] > 0
    assert (tmp_path / "fronts.png").is_file()


@pytest.mark.end_to_end
def test_a_population_has_a_checkpoint_and_times(config, monkeypatch, tmp_path: Path):
    population = load("population", monkeypatch)
    algorithm = population.FedVPAGP(MethodConfig.parse({"server": {"rounds": 5}}))
    held = population.federation(tmp_path, 7)
    state = population.filled(algorithm, held, 2, 3)
    assert state.server.round == 3
    found = population.checkpoint(tmp_path / "last.safetensors", state, repeats=2)
    assert found["came_back_bit_for_bit"]
    assert 0 < found["clients_with_state"] <= 6
    going = population.rounds(algorithm, held, EngineConfig(workers=1, cohort=2), 0, state)
    assert [len(mine) for mine in population.by_turns([going], 2)] == [2]
    everyone = population.everybody(algorithm, 5)
    assert {tuple(own["logits"].shape) for own in everyone.private.values()} == {(100,)}


@pytest.mark.end_to_end
def test_a_large_client_has_a_peak(config, monkeypatch):
    found = load("large_client", monkeypatch).measure([30, 2, 0], 5, "fedvpa_gp", 1, 2)
    assert 0 < found["imported_mib"] <= found["set_up_peak_mib"] <= found["peak_mib"]
