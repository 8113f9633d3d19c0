from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file

from conftest import make_federation
from fedvpa.algorithms.registry import METHODS, make
from fedvpa.algorithms.server.aggregation import Averaged
from fedvpa.core import tensors
from fedvpa.core.errors import RunError
from fedvpa.core.frozen import to_tensors
from fedvpa.core.tree import Tree
from fedvpa.engines.checkpoint import load_checkpoint, load_clients, previous, save_checkpoint, save_clients
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.sampling import draw_cohort, draw_dropouts, identities
from fedvpa.engines.training import TrainState, rounds, start
from tests_shared import config

SETTING = config(server={"rounds": 4})


def run(method: str, engine: EngineConfig, state: TrainState | None = None, setting=SETTING, federation=None):
    federation = federation or make_federation()
    algorithm = make(method, setting)
    state = state or start(algorithm, federation, 7)
    lines, states = [], [state]
    for reached, line in rounds(algorithm, federation, engine, 7, state):
        lines.append(line)
        states.append(reached)
    return states, lines


def assert_close_trees(one: Tree, two: Tree, **tolerance: float) -> None:
    assert one.keys() == two.keys()
    for name, leaf in one.items():
        torch.testing.assert_close(leaf, two[name], equal_nan=True, **tolerance)


def assert_equal(one: TrainState, two: TrainState, **tolerance: float) -> None:
    assert_close_trees(to_tensors(one.server), to_tensors(two.server), **tolerance)
    assert list(one.private) == list(two.private)
    for name, own in one.private.items():
        assert_close_trees(own, two.private[name], **tolerance)


@pytest.mark.equivalence
@pytest.mark.parametrize("method", METHODS.names())
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("prior", ["mixture", "posteriors"])
def test_loop_and_vectorised_agree_on_unequal_empty_and_silent_clients(method: str, workers: int, prior: str):
    if prior == "posteriors" and method != "fedvpa_gp":
        pytest.skip("only FedVPA-GP reads it")
    setting = config(server={"rounds": 4}, variational={"prior": prior})
    faults = {"cohort": 5, "dropout": 0.3}
    loop, history = run(method, EngineConfig(name="loop", **faults), setting=setting)
    fast, again = run(method, EngineConfig(name="vectorised", workers=workers, **faults), setting=setting)
    if method != "local":
        assert any(line["dropped"] for line in history)
        assert any("client-3" in line["cohort"] for line in history), "the client without pairs takes part"
    for one, two in zip(history, again, strict=True):
        assert {**one, "seconds": 0, "losses": 0} == {**two, "seconds": 0, "losses": 0}
    assert_equal(loop[-1], fast[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.equivalence
@pytest.mark.parametrize("method", ["fedbiscuit", "fedem", "fedvpa_gp", "fedvpl", "global"])
@pytest.mark.parametrize("name", ["loop", "vectorised"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(method: str, name: str, tmp_path):
    engine = EngineConfig(name=name, workers=1, cohort=4)
    states, lines = run(method, engine)
    save_checkpoint(tmp_path / "last.safetensors", states[2], {"note": [1, "ä"]})
    state, meta = load_checkpoint(tmp_path / "last.safetensors", make(method, SETTING).state_type)
    assert meta == {"note": [1, "ä"]}
    resumed, rest = run(method, engine, state)
    assert_equal(states[-1], resumed[-1], rtol=0.0, atol=0.0)
    assert [line["losses"] for line in rest] == [line["losses"] for line in lines[2:]]


@pytest.mark.unit
def test_odd_client_ids_and_private_floats_survive(tmp_path):
    states, _ = run("fedvpa_gp", EngineConfig(workers=1, cohort=5))
    private = {f"a.b/{name}é": own for name, own in states[-1].private.items()}
    save_clients(tmp_path / "clients.safetensors", private)
    again = load_clients(tmp_path / "clients.safetensors")
    assert list(again) == list(private)
    assert all(torch.equal(again[name][key], leaf) for name, own in private.items() for key, leaf in own.items())


@pytest.mark.unit
def test_a_failed_write_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    states, _ = run("global", EngineConfig(workers=1))
    save_checkpoint(path, states[1], {})

    def full(tensors, name, metadata):
        save_file(dict(list(tensors.items())[:1]), name, metadata)
        raise OSError("No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, states[2], {})
    assert load_checkpoint(path, Averaged)[0].server.round == 1
    assert load_checkpoint(previous(path), Averaged)[0].server.round == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.safetensors", "last.safetensors.previous"]


@pytest.mark.unit
def test_missing_cut_and_foreign_checkpoints_are_refused(tmp_path):
    path = tmp_path / "last.safetensors"
    with pytest.raises(RunError, match="no readable checkpoint"):
        load_checkpoint(path, Averaged)
    states, _ = run("global", EngineConfig(workers=1))
    save_checkpoint(path, states[1], {})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match="no readable checkpoint"):
        load_checkpoint(path, Averaged)
    save_file({"x": torch.zeros(1)}, path, {"fedvpa": json.dumps({"schema_version": 99})})
    with pytest.raises(RunError, match="schema version 99"):
        load_checkpoint(path, Averaged)


@pytest.mark.unit
def test_a_cohort_is_drawn_by_id():
    names = [f"user-{number}" for number in range(101)]
    cohort = draw_cohort(names, identities(names), 7, 3, 11)
    shuffled = names[::-1]
    assert draw_cohort(shuffled, identities(shuffled), 7, 3, 11) == cohort
    more = [*names, "newcomer"]
    assert len(set(draw_cohort(more, identities(more), 7, 3, 11)) & set(cohort)) >= 6
    assert draw_cohort(names, identities(names), 7, 3, 12) != cohort
    assert draw_dropouts(cohort, 0.0, 3, 11) == frozenset()
    known = identities(names)
    times = Counter(name for round_ in range(400) for name in draw_cohort(names, known, 7, 3, round_))
    assert sum(times.values()) == 400 * 7
    shares = [times[name] / 400 for name in names]
    assert max(shares) < 0.14
    assert min(shares) > 0.02


@pytest.mark.unit
def test_a_round_that_everybody_leaves_changes_nothing_but_the_round():
    states, lines = run("fedvpa_gp", EngineConfig(cohort=3, dropout=0.999, workers=1))
    assert all(len(line["dropped"]) == 3 for line in lines)
    assert all(torch.equal(states[0].server.params[name], leaf) for name, leaf in states[-1].server.params.items())
    assert states[-1].private == {}
    assert states[-1].server.round == 4
