from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from conftest import make_federation
from fedvpa.algorithms.fedbiscuit import BiscuitState
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server.mixture_state import MixtureState
from fedvpa.core import tensors
from fedvpa.core.errors import RunError
from fedvpa.core.frozen import to_tensors
from fedvpa.core.schema import VERSIONS
from fedvpa.core.tree import Tree
from fedvpa.engines.checkpoint import (
    load_checkpoint,
    load_clients,
    previous,
    save_checkpoint,
    save_clients,
)
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import TrainState, rounds, start
from tests_shared import config

ODD_IDS = ("z.mean", "a/b/../c", "0", "", 'quote"\\\n\0', "naïve 用户 🙂", "\ud800", "10", "2")
"""Dots as in tensor names, slashes, numbers out of order, nothing, control characters, a lone surrogate."""


def gaussian(generator: torch.Generator, size: int) -> Tree:
    mean, log_var = torch.randn(2, size, generator=generator)
    return {"mean": mean, "log_var": log_var}


def odd_private() -> dict[str, Tree]:
    """With and without weights, with and without a posterior; floats that float32 or decimals would change."""
    generator = torch.Generator().manual_seed(3)
    floats = torch.tensor([0.1, 1 / 3, -0.0, 5e-324, math.pi * 1e300, -math.inf, math.nan], dtype=torch.float64)
    private = {name: gaussian(generator, 7) for name in ODD_IDS}
    private["0"] = {"logits": floats}
    private["2"] = {"logits": floats[:3], **gaussian(generator, 7)}
    private[""] = {}
    return private


def odd_state(spread: float = math.nan) -> TrainState:
    generator = torch.Generator().manual_seed(5)
    params = {"head.a.b": torch.randn(3, 5, generator=generator), "scale": torch.tensor(-0.0)}
    average = {"head.a.b": torch.randn(5, 3, generator=generator).T, "scale": torch.tensor(2.0, dtype=torch.float64)}
    server = MixtureState(
        params=params,
        log_prior=torch.tensor([-math.inf, -0.3]),
        spread=torch.tensor(spread),
        moments=gaussian(generator, 3),
        round=11,
        average=average,
        averaged=2,
        posteriors={name: gaussian(generator, 7) for name in ODD_IDS},
        cohort=ODD_IDS[::-1],
        seed=2**40,
    )
    return TrainState(server, odd_private())


def assert_same(one: Tensor, two: Tensor) -> None:
    """Equal in shape, precision and every bit: NaN equals itself, and -0 is not 0."""
    assert (one.shape, one.dtype) == (two.shape, two.dtype)
    as_bits = {1: torch.uint8, 4: torch.int32, 8: torch.int64}[one.element_size()]
    assert torch.equal(one.contiguous().view(as_bits), two.contiguous().view(as_bits))


def assert_same_trees(one: Tree, two: Tree) -> None:
    assert one.keys() == two.keys()
    for name, leaf in one.items():
        assert_same(leaf, two[name])


def assert_same_private(one: dict[str, Tree], two: dict[str, Tree]) -> None:
    assert list(one) == list(two)
    for name, own in one.items():
        assert_same_trees(own, two[name])


def assert_same_state(one: TrainState, two: TrainState) -> None:
    assert type(one.server) is type(two.server)
    assert_same_trees(to_tensors(one.server), to_tensors(two.server))
    assert_same_private(one.private, two.private)


@pytest.mark.unit
@pytest.mark.parametrize("spread", [math.nan, 0.25])
def test_every_bit_and_every_order_survives(spread: float, tmp_path: Path):
    path, meta = tmp_path / "last.safetensors", {"method": "ä", "list": [1, None, {"deep": 0.1}]}
    save_checkpoint(path, odd_state(spread), meta)
    state, again = load_checkpoint(path, MixtureState)
    assert again == meta
    assert_same_state(odd_state(spread), state)


@pytest.mark.unit
def test_tensors_that_share_memory_survive(tmp_path: Path):
    rows, weights = torch.randn(2, 3, 7), {"w": torch.randn(3)}
    shared = {"mean": rows[0, 1], "log_var": rows[1, 1]}
    first = {"mean": rows[0, 0], "log_var": rows[1, 0]}
    posteriors = {"a": first, "b": shared, "c": {"mean": torch.zeros(1).expand(7), "log_var": rows[0, 0]}}
    server = MixtureState(
        params=weights, average=weights, averaged=1, round=5, log_prior=torch.zeros(2), posteriors=posteriors
    )
    state = TrainState(server, {"b": shared})
    save_checkpoint(tmp_path / "last.safetensors", state, {})
    assert_same_state(state, load_checkpoint(tmp_path / "last.safetensors", MixtureState)[0])


@pytest.mark.unit
def test_loaded_tensors_are_aligned_like_new_ones(tmp_path: Path):
    """Kernels may round differently on a tensor at an odd address: a resumed run would drift by a last bit."""
    save_checkpoint(tmp_path / "last.safetensors", odd_state(), {})
    state, _ = load_checkpoint(tmp_path / "last.safetensors", MixtureState)
    leaves = [*state.server.params.values(), *state.server.average.values(), state.server.log_prior]
    assert {leaf.data_ptr() % 64 for leaf in leaves} == {0}


@pytest.mark.unit
@pytest.mark.parametrize("private", [odd_private(), {}], ids=["odd", "none"])
def test_clients_survive_alone(private: dict[str, Tree], tmp_path: Path):
    path = tmp_path / "clients" / "private.safetensors"
    save_clients(path, private)
    assert_same_private(private, load_clients(path))


@pytest.mark.unit
def test_a_header_does_not_grow_with_the_clients(tmp_path: Path):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, odd_state(), {"seed": 7})
    with safe_open(path, framework="pt") as file:
        header, names = json.loads(file.metadata()["fedvpa"]), list(file.keys())
    assert header == {"schema_version": VERSIONS["checkpoint"], "meta": {"seed": 7}}
    many = TrainState(odd_state().server, {f"user-{number}": {"mean": torch.zeros(2)} for number in range(500)})
    save_checkpoint(path, many, {"seed": 7})
    with safe_open(path, framework="pt") as file:
        assert len(list(file.keys())) <= len(names)


@pytest.mark.unit
def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path):
    save_checkpoint(tmp_path / "last.safetensors", odd_state(), {})
    with pytest.raises(RunError, match="no checkpoint of a BiscuitState"):
        load_checkpoint(tmp_path / "last.safetensors", BiscuitState)


@pytest.mark.unit
def test_the_previous_checkpoint_is_kept(tmp_path: Path):
    path = tmp_path / "last.safetensors"
    for seed in (1, 2, 3):
        save_checkpoint(path, odd_state(), {"seed": seed})
    assert load_checkpoint(path, MixtureState)[1] == {"seed": 3}
    assert load_checkpoint(previous(path), MixtureState)[1] == {"seed": 2}
    assert set(tmp_path.iterdir()) == {path, previous(path)}


@pytest.mark.unit
def test_a_whole_checkpoint_stands_at_every_moment_of_a_write_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, seen = tmp_path / "last.safetensors", []
    save_checkpoint(path, odd_state(), {"seed": 1})

    def full(tensors: dict[str, Tensor], name: Path, metadata: dict[str, str]) -> None:
        name.write_bytes(b"half")
        seen.append(load_checkpoint(path, MixtureState)[1])
        raise OSError("No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, odd_state(0.5), {"seed": 2})
    assert seen == [{"seed": 1}]
    state, meta = load_checkpoint(path, MixtureState)
    assert meta == {"seed": 1}
    assert_same_state(odd_state(), state)
    assert set(tmp_path.iterdir()) == {path, previous(path)}


def assert_refused(path: Path, problem: str) -> None:
    for load in (partial(load_checkpoint, state_type=MixtureState), load_clients):
        with pytest.raises(RunError, match=problem) as caught:
            load(path)
        assert caught.value.where == str(path)
        assert caught.value.fix


@pytest.mark.unit
def test_missing_and_truncated_files_are_refused(tmp_path: Path):
    path = tmp_path / "last.safetensors"
    assert_refused(path, "no readable checkpoint")
    save_checkpoint(path, odd_state(), {})
    whole = path.read_bytes()
    for length in (0, 5, 101, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert_refused(path, "no readable checkpoint")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        (None, "no readable checkpoint"),
        ({"fedvpa": "{"}, "no readable checkpoint"),
        ({"fedvpa": "[1]"}, "no readable checkpoint"),
        ({"fedvpa": "3"}, "no readable checkpoint"),
        ({"fedvpa": "{}"}, "no readable checkpoint"),
        ({"fedvpa": json.dumps({"schema_version": VERSIONS["checkpoint"] + 1, "private": []})}, "has schema version 4"),
        ({"fedvpa": json.dumps({"schema_version": VERSIONS["checkpoint"], "x": 1})}, "another kind of file"),
    ],
)
def test_files_of_others_and_other_schemas_are_refused(metadata: dict[str, str] | None, problem: str, tmp_path: Path):
    save_file({"x": torch.zeros(1)}, tmp_path / "last.safetensors", metadata)
    assert_refused(tmp_path / "last.safetensors", problem)


@pytest.mark.unit
def test_a_checkpoint_and_a_clients_file_are_not_taken_for_each_other(tmp_path: Path):
    save_checkpoint(tmp_path / "last", odd_state(), {})
    save_clients(tmp_path / "clients", odd_private())
    with pytest.raises(RunError, match="another kind of file"):
        load_clients(tmp_path / "last")
    with pytest.raises(RunError, match="another kind of file"):
        load_checkpoint(tmp_path / "clients", MixtureState)


@pytest.mark.equivalence
@pytest.mark.parametrize("method", ["fedvpa_gp", "global"])
@pytest.mark.parametrize("name", ["loop", "vectorised"])
def test_resumed_is_uninterrupted_after_every_round(method: str, name: str, tmp_path: Path):
    federation = make_federation()
    algorithm = make(method, config(server={"rounds": 5, "average_tail": 0.5}))
    engine = EngineConfig(name=name, workers=1, cohort=3, dropout=0.2)
    path = tmp_path / "last.safetensors"

    def run(state: TrainState) -> list[TrainState]:
        return [reached for reached, _ in rounds(algorithm, federation, engine, 7, state)]

    first = start(algorithm, federation, 7)
    whole = run(first)
    assert whole[-1].server.averaged > 1
    learned = any("logits" in own for own in whole[-1].private.values())
    assert learned == (method == "fedvpa_gp")
    for done, state in enumerate([first, *whole[:-1]]):
        save_checkpoint(path, state, {})
        resumed = run(load_checkpoint(path, algorithm.state_type)[0])
        assert len(resumed) == len(whole) - done
        assert_same_state(whole[-1], resumed[-1])
