"""The work of each benchmark that trains, at small size: a renamed function of the package must not leave it broken."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedvpa.api.train import train
from fedvpa.core.errors import ConfigError
from fedvpa.privacy.measured import Measured, measurements
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.selector.selector import Selector
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
    accuracy, rejected = load("robustness", monkeypatch).honest_accuracy((config(), 0.2, "opposite within the limits"))
    assert 0 <= accuracy <= 1
    assert rejected == 0


@pytest.mark.end_to_end
def test_a_choice_of_stage_2_has_win_rates(config, monkeypatch):
    found = load("policy_choices", monkeypatch).judged(config(*TINY_POLICY))
    assert 0 <= found["helpful"] <= 1
    assert found["step"] in (0, 1, 2)


@pytest.mark.end_to_end
def test_noise_costs_accuracy_and_a_table_is_kept(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    world = load("privacy_world", monkeypatch)
    cell = world.Cell.read("7,3,2,50")
    more = [entry for entry in TINY if entry.split("=")[0] not in ("server.rounds", "selector.rotation")]
    (found,) = world.measure(cell, ["fedem"], [0], None, more)
    row = found["row"]
    assert (row["clients"], row["cohort"], row["rounds"], row["seeds"]) == (7, 3, 2, 1)
    assert 49 < row["epsilon"] <= 50
    (plain,), (private,) = (found["gaps"][kind]["accuracy"] for kind in ("plain", "private"))
    (worst,), (best,) = found["global"], found["oracle"]
    assert row["gap_closed"] == pytest.approx((private - worst) / (best - worst))
    assert row["gap_closed_without"] == pytest.approx((plain - worst) / (best - worst))
    kept = Measured(**row)
    for gap in (0.5, 0.25):
        world.write([replace(kept, gap_closed=gap)], tmp_path / "world.json")
    assert measurements(tmp_path / "world.json") == (replace(kept, gap_closed=0.25),)


@pytest.mark.end_to_end
def test_attacks_are_averaged_over_seeds(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    attacks = load("privacy_audit", monkeypatch)
    named = {name: own for name, own in attacks.settings(5.0, 1e-3, 20).items() if name == "clipped"}
    found = attacks.measure([*TINY, "method=fedvpa_gp", "selector.rotation=none"], named, [0], None)
    assert 0 <= found["clipped"]["who trained, AUC"]["mean"] <= 1
    assert found["clipped"]["canaries, released: claimed"]["lowest"] > 1e9
    assert 0 <= found["clipped"]["canaries, released: share of the most"]["highest"] <= 1


@pytest.mark.end_to_end
def test_new_users_are_asked_pairs_of_the_world_and_of_a_table(config, monkeypatch):
    onboarding = load("onboarding", monkeypatch)
    monkeypatch.setattr(onboarding, "MOST", 2)
    prepared = onboarding.prepare(config())
    selector = onboarding.fit(config(), prepared).selector
    (user, _) = onboarding.users_of_world(config(), selector, 1, 7)
    drawn, chosen = (onboarding.curve(selector, user, order) for order in (np.arange(7), None))
    assert len(drawn) == len(chosen) == 3
    assert drawn[0] == chosen[0]
    row = {"pairs": {"random": 4, "chosen": 1}}
    assert onboarding.summary([row, row])["ratio"] == {"mean": 0.25, "ci95": [0.25, 0.25]}
    users = onboarding.users_of_table(prepared, selector, 2, 0)
    assert {user.group for user in users} == {"helpful", "harmless"}
    assert all(((user.wins == 0) | (user.wins == 1)).all() for user in users)
    assert onboarding.needed(np.array([0.5, 0.6, 0.689, 0.691]), 0.5, 0.7) == 3
    assert onboarding.needed(np.array([0.5, 0.6]), 0.5, 0.7) == onboarding.MOST + 1


@pytest.mark.unit
@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_every_benchmark_can_be_imported(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    load(path.stem, monkeypatch)


FEW_SAMPLES = (
    "firm.rounds=1",
    "firm.cohort=1",
    "firm.steps=1",
    "firm.prompts=2",
    "firm.completions=3",
    "firm.max_new_tokens=13",
)


@pytest.mark.end_to_end
def test_fronts_have_rewards_kept_answers_and_a_table(config, monkeypatch, tmp_path):
    fronts = load("fronts", monkeypatch)
    monkeypatch.setattr(fronts, "PATH", (0.0, 1.0))
    own = ("data.pairs_per_user=11", "partition.clients=4", "partition.min_train=1", "server.rounds=2", *TINY_POLICY)
    options, methods = fronts.Options(tmp_path, 3, 2, float("inf"), own, FEW_SAMPLES), ["fedvpa_gp", "soups"]
    rewards = fronts.collect(options, methods, [5])
    assert {name: own.shape for name, own in rewards[5].items()} == {
        "fedvpa_gp": (2, 3, 2),
        "soups": (2, 3, 2),
        fronts.BASE: (3, 2),
    }
    monkeypatch.setattr(fronts, "opened", None)  # nothing is trained or answered again
    again = fronts.collect(replace(options, until=0.0), methods, [5])
    assert all((again[5][name] == rewards[5][name]).all() for name in methods)
    fronts.leave(options, methods, rewards)
    rows = (tmp_path / "fronts.md").read_text().splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| fedvpa_gp", "| soups"]
    told = json.loads((tmp_path / "fronts.json").read_text())
    assert told["fronts"][0]["preferences"] == [[0, 1], [1, 0]]
    assert told["traffic"]["fedvpa_gp"]["uplink_bytes"] > 0
    assert list(told["traffic"]["soups"]["histories"]) == ["all"]
    assert (tmp_path / "fronts.png").is_file()


@pytest.mark.end_to_end
def test_latents_are_looked_at_after_the_rounds_asked_for_and_drawn(config, monkeypatch):
    evolution = load("latent_evolution", monkeypatch)
    run = config("method=fedvpa_gp")
    found = evolution.snapshots(run, [2, 99])
    assert [one.round for one in found] == [2, 5]
    assert found[0].means.shape == found[1].means.shape == (7, 13)
    assert (found[0].means != found[1].means).any()
    rows = evolution.table([found, found])
    assert rows[1]["accuracy"] == [found[1].accuracy] * 3
    assert len(evolution.lines(rows)) == 4
    assert [panel.get_title() for panel in evolution.figure(found).axes] == ["round 2", "round 5"]
    with pytest.raises(ConfigError, match="'local' has no"):
        evolution.snapshots(config("method=local"), [1])


@pytest.mark.end_to_end
def test_what_a_run_costs_is_read_from_its_folder(config, monkeypatch, tmp_path):
    overhead = load("overhead", monkeypatch)
    train(config("method=global"), tmp_path / "run")
    first = overhead.cost_of(tmp_path / "run")
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert (first.method, first.policy, first.base, first.rounds) == ("global", 0, None, 5)
    assert first.up == sum(line["uplink_bytes"] for line in history) / sum(len(line["cohort"]) for line in history)
    assert first.seconds == pytest.approx(sum(line["seconds"] for line in history))
    selector = Selector.from_pretrained(tmp_path / "run")
    assert first.selector == sum(leaf.numel() for leaf in selector.params.values())
    made = overhead.Cost("r", "feddpo", 0, 2310, 231000, 9.6, 8.0, 2, 0.0, 2 * first.seconds)
    ours, theirs = overhead.lines_of([first, made], "feddpo")[2:]
    assert ours.startswith("| `global` |")
    assert ours.endswith("| 0.50× |")
    assert theirs == f"| `feddpo` | 0 | 0.00% | 2,310 | 10 | 8 | 2 | 0.0 | {2 * first.seconds:.1f} | 1.00× |"


@pytest.mark.end_to_end
def test_what_a_policy_takes_is_measured_from_pairs_to_policy(config, monkeypatch, tmp_path):
    overhead = load("overhead", monkeypatch)
    small = [*TINY, *TINY_POLICY, "policy.feddpo.rounds=1", "policy.feddpo.steps=1", "policy.feddpo.batch=2"]
    before = os.environ.get("FEDVPA_CACHE")
    taken = [overhead.take(method, tmp_path / method, None, small) for method in ("fedeb", "feddpo")]
    assert os.environ.get("FEDVPA_CACHE") == before
    assert list((tmp_path / "fedeb" / "cache").rglob("candidates/*.safetensors"))
    assert overhead.cost_of(tmp_path / "feddpo" / "run").method == "feddpo"
    assert all(one.wall > 0 < one.processor for one in taken)
    given = [overhead.Taken("fedeb", 3.0, 2.0), overhead.Taken("fedeb", 6.0, 2.0), overhead.Taken("feddpo", 2.0, 1.0)]
    rows = overhead.ratios_of([*given, overhead.Taken("feddpo", 3.0, 4.0)], "feddpo")[2:]
    assert rows[0] == "| `fedeb` | 4.5 | 2.0 | 1.75× [1.50, 2.00] | 1.25× [0.50, 2.00] |"
    assert rows[1].endswith("| 1.00× [1.00, 1.00] | 1.00× [1.00, 1.00] |")


@pytest.mark.end_to_end
def test_adapters_are_trained_with_the_noise_of_an_epsilon_and_without(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    adapters = load("private_adapters", monkeypatch)
    monkeypatch.setattr(adapters, "TESTED", 1)
    small = {"population": "individuals", "users": 3, "cohort": 2, "rounds": 1, "steps": 1, "pairs": 2, "rank": 1}
    options = Namespace(**small, averaging="ffa", lr=0.01)
    plain, noised = (adapters.trained(options, 0, one) for one in (None, 8.0))
    assert 7.9 < noised["epsilon_released"] <= 8
    assert 0 <= plain["accuracy"] <= 1
    assert noised["trained_weights"] < plain["weights"]
