from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from conftest import make_federation
from fedvpa.algorithms.base import Gaussian, Private, ServerState
from fedvpa.algorithms.registry import make
from fedvpa.core import tensors
from fedvpa.core.errors import RunError
from fedvpa.core.schema import VERSIONS
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


def gaussian(generator: torch.Generator, size: int) -> Gaussian:
    mean, log_var = torch.randn(2, size, generator=generator)
    return mean, log_var


def odd_private() -> dict[str, Private]:
    """With and without weights, with and without a posterior; floats that float32 or decimals would change."""
    generator = torch.Generator().manual_seed(3)
    floats = (0.1, 1 / 3, -0.0, 5e-324, math.pi * 1e300, -math.inf, math.nan)
    private = {name: Private({}, gaussian(generator, 7)) for name in ODD_IDS}
    private["0"] = Private(dict(zip(ODD_IDS, floats, strict=False)), None)
    private["2"] = Private(dict(zip(reversed(ODD_IDS), floats, strict=False)), gaussian(generator, 7))
    return private


def odd_state(evidence: float = math.nan) -> TrainState:
    generator = torch.Generator().manual_seed(5)
    params = {"head.a.b": torch.randn(3, 5, generator=generator), "scale": torch.tensor(-0.0)}
    average = {"head.a.b": torch.randn(5, 3, generator=generator).T, "scale": torch.tensor(2.0, dtype=torch.float64)}
    server = ServerState(
        params=params,
        log_prior=torch.tensor([-math.inf, -0.3]),
        evidence=torch.tensor(evidence),
        round=11,
        average=average,
        averaged=2,
        posteriors={name: gaussian(generator, 7) for name in ODD_IDS},
        components=ODD_IDS[::-1],
    )
    return TrainState(server, odd_private())


def assert_same(one: Tensor, two: Tensor) -> None:
    """Equal in shape, precision and every bit: NaN equals itself, and -0 is not 0."""
    assert (one.shape, one.dtype) == (two.shape, two.dtype)
    as_bits = {4: torch.int32, 8: torch.int64}[one.element_size()]
    assert torch.equal(one.contiguous().view(as_bits), two.contiguous().view(as_bits))


def assert_same_gaussian(one: Gaussian | None, two: Gaussian | None) -> None:
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        for left, right in zip(one, two, strict=True):
            assert_same(left, right)


def assert_same_private(one: dict[str, Private], two: dict[str, Private]) -> None:
    assert list(one) == list(two)
    for name, own in one.items():
        hexes = [[(key, value.hex()) for key, value in side.logits.items()] for side in (own, two[name])]
        assert hexes[0] == hexes[1]
        assert_same_gaussian(own.posterior, two[name].posterior)


def assert_same_state(one: TrainState, two: TrainState) -> None:
    for mine, yours in ((one.server.params, two.server.params), (one.server.average, two.server.average)):
        assert mine.keys() == yours.keys()
        for name, leaf in mine.items():
            assert_same(leaf, yours[name])
    assert_same(one.server.log_prior, two.server.log_prior)
    assert_same(one.server.evidence, two.server.evidence)
    assert (one.server.round, one.server.averaged) == (two.server.round, two.server.averaged)
    assert one.server.components == two.server.components
    assert list(one.server.posteriors) == list(two.server.posteriors)
    for name, posterior in one.server.posteriors.items():
        assert_same_gaussian(posterior, two.server.posteriors[name])
    assert_same_private(dict(one.private), dict(two.private))


@pytest.mark.unit
@pytest.mark.parametrize("evidence", [math.nan, 0.25])
def test_every_bit_and_every_order_survives(evidence: float, tmp_path: Path):
    path, meta = tmp_path / "last.safetensors", {"method": "ä", "list": [1, None, {"deep": 0.1}]}
    save_checkpoint(path, odd_state(evidence), meta)
    state, again = load_checkpoint(path)
    assert again == meta
    assert_same_state(odd_state(evidence), state)


@pytest.mark.unit
def test_tensors_that_share_memory_survive(tmp_path: Path):
    rows, weights = torch.randn(2, 3, 7), {"w": torch.randn(3)}
    shared = (rows[0, 1], rows[1, 1])
    posteriors = {"a": (rows[0, 0], rows[1, 0]), "b": shared, "c": (torch.zeros(1).expand(7), rows[0, 0])}
    server = ServerState(weights, torch.zeros(2), torch.tensor(1.0), 5, weights, 1, posteriors, ("b",))
    state = TrainState(server, {"b": Private({}, shared)})
    save_checkpoint(tmp_path / "last.safetensors", state, {})
    assert_same_state(state, load_checkpoint(tmp_path / "last.safetensors")[0])


@pytest.mark.unit
def test_loaded_tensors_are_aligned_like_new_ones(tmp_path: Path):
    """Kernels may round differently on a tensor at an odd address: a resumed run would drift by a last bit."""
    save_checkpoint(tmp_path / "last.safetensors", odd_state(), {})
    state, _ = load_checkpoint(tmp_path / "last.safetensors")
    posteriors = [*state.server.posteriors.values(), *(own.posterior for own in state.private.values())]
    leaves = [*state.server.params.values(), *state.server.average.values(), state.server.log_prior]
    leaves += [leaf for posterior in posteriors if posterior is not None for leaf in posterior]
    assert {leaf.data_ptr() % 64 for leaf in leaves} == {0}


@pytest.mark.unit
@pytest.mark.parametrize("private", [odd_private(), {}], ids=["odd", "none"])
def test_clients_survive_alone(private: dict[str, Private], tmp_path: Path):
    path = tmp_path / "clients" / "private.safetensors"
    save_clients(path, private)
    assert_same_private(private, load_clients(path))


@pytest.mark.unit
def test_weights_are_float64_and_ids_stand_in_the_metadata_only(tmp_path: Path):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, odd_state(), {"seed": 7})
    with safe_open(path, framework="pt") as file:
        header, names = json.loads(file.metadata()["fedvpa"]), list(file.keys())
        assert {file.get_tensor(name).dtype for name in names if name.endswith(".logits")} == {torch.float64}
    assert header["schema_version"] == VERSIONS["checkpoint"]
    assert header["posteriors"] == [own["id"] for own in header["private"]] == list(ODD_IDS)
    assert (header["round"], header["averaged"], header["meta"]) == (11, 2, {"seed": 7})
    numbered = [name for name in names if name.startswith(("posteriors.", "private."))]
    assert {name.split(".")[1] for name in numbered} == {str(row) for row in range(len(ODD_IDS))}


@pytest.mark.unit
def test_the_previous_checkpoint_is_kept(tmp_path: Path):
    path = tmp_path / "last.safetensors"
    for seed in (1, 2, 3):
        save_checkpoint(path, odd_state(), {"seed": seed})
    assert load_checkpoint(path)[1] == {"seed": 3}
    assert load_checkpoint(previous(path))[1] == {"seed": 2}
    assert set(tmp_path.iterdir()) == {path, previous(path)}


@pytest.mark.unit
def test_a_whole_checkpoint_stands_at_every_moment_of_a_write_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, seen = tmp_path / "last.safetensors", []
    save_checkpoint(path, odd_state(), {"seed": 1})

    def full(tensors: dict[str, Tensor], name: Path, metadata: dict[str, str]) -> None:
        name.write_bytes(b"half")
        seen.append(load_checkpoint(path)[1])
        raise OSError("No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, odd_state(0.5), {"seed": 2})
    assert seen == [{"seed": 1}]
    state, meta = load_checkpoint(path)
    assert meta == {"seed": 1}
    assert_same_state(odd_state(), state)
    assert set(tmp_path.iterdir()) == {path, previous(path)}


def assert_refused(path: Path, problem: str) -> None:
    for load in (load_checkpoint, load_clients):
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
        ({"fedvpa": json.dumps({"schema_version": VERSIONS["checkpoint"] + 1, "private": []})}, "has schema version 2"),
        ({"fedvpa": json.dumps({"schema_version": VERSIONS["checkpoint"]})}, "another kind of file"),
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
        load_checkpoint(tmp_path / "clients")


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
    learned = any(own.posterior is not None for own in whole[-1].private.values())
    assert learned == (method == "fedvpa_gp")
    for done, state in enumerate([first, *whole[:-1]]):
        save_checkpoint(path, state, {})
        resumed = run(load_checkpoint(path)[0])
        assert len(resumed) == len(whole) - done
        assert_same_state(whole[-1], resumed[-1])
