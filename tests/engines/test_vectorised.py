"""What the bits of a result depend on: the number of workers, and of torch's threads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import DIMENSION, make_federation
from fedvpa.algorithms.registry import make
from fedvpa.engines import federation as federation_module
from fedvpa.engines import vectorised
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.features.store import FeatureStore
from tests_shared import config

SETTING = config(server={"rounds": 3}, selector={"encoder": {"pair_widths": [64]}})


def train(workers: int, threads: int = 1, state: TrainState | None = None) -> list[TrainState]:
    """The states after each round, on features that are wide enough for torch to share a reduction out to threads."""
    torch.set_num_threads(threads)
    narrow = make_federation((41, 37, 1, 0, 29, 43))
    sides = (torch.from_numpy(side).repeat(1, 37).numpy() for side in (narrow.store.chosen, narrow.store.rejected))
    standardiser = replace(
        narrow.scaling.standardiser,
        mean=narrow.scaling.standardiser.mean.repeat(37),
        scale=narrow.scaling.standardiser.scale.repeat(37),
    )
    wide = replace(
        narrow,
        store=FeatureStore(*sides, narrow.store.report),
        scaling=replace(narrow.scaling, standardiser=standardiser),
    )
    algorithm = make("fedvpa_gp", SETTING)
    engine = EngineConfig(name="vectorised", workers=workers, cohort=5)
    state = state or start(algorithm, wide, 7)
    return [reached for reached, _ in rounds(algorithm, wide, engine, 7, state)]


def bits(state: TrainState) -> dict[str, bytes]:
    """Every weight, moment and private logit."""
    found = {name: leaf.numpy().tobytes() for name, leaf in state.server.final.items()}
    found |= {f"moment {name}": leaf.numpy().tobytes() for name, leaf in state.server.moments.items()}
    for name, own in state.private.items():
        found |= {f"private {part} of {name}": leaf.numpy().tobytes() for part, leaf in own.items()}
    return found


@pytest.mark.equivalence
@pytest.mark.parametrize("workers", [2, 3])
def test_with_several_workers_torchs_threads_change_no_bit(workers: int):
    """Each worker computes on one thread, whatever the process has."""
    want = bits(train(workers)[-1])
    for threads in (1, 2, 4):
        assert bits(train(workers, threads)[-1]) == want


@pytest.mark.equivalence
def test_a_run_is_resumed_bit_for_bit_with_the_same_workers_and_other_threads():
    whole = train(2, threads=1)
    resumed = train(2, threads=4, state=whole[0])
    assert len(resumed) == 2
    assert bits(resumed[-1]) == bits(whole[-1])


@pytest.mark.equivalence
def test_another_number_of_workers_changes_rounding_only():
    """Shares of another size are padded and batched differently, so bits may differ, and usually do.

    That is why a run has to keep the number that it began with: ``workers: 0`` means another one on a machine with
    other cores.
    """
    one, *others = (train(workers)[0].server.params for workers in (1, 2, 4))
    for other in others:
        for name in ("head.base", "head.personal", "prototypes"):
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


@pytest.mark.equivalence
@pytest.mark.parametrize("method", ["fedvpa_gp", "oracle"])
def test_batches_of_like_size_give_what_one_batch_gives(method: str, monkeypatch: pytest.MonkeyPatch):
    def run() -> TrainState:
        algorithm, federation = make(method, config(server={"rounds": 3})), make_federation((3, 41, 2, 0, 29, 5))
        engine = EngineConfig(name="vectorised", workers=1, cohort=6)
        return list(rounds(algorithm, federation, engine, 7, start(algorithm, federation, 7)))[-1][0]

    one, batched = run(), list[int]()
    monkeypatch.setattr(vectorised, "MOST_FLOATS", 2 * DIMENSION * 12)
    together = vectorised._run_batch
    monkeypatch.setattr(vectorised, "_run_batch", lambda task: [batched.append(len(task.cohort)), together(task)][1])
    many = run()
    assert batched == [3, 1, 1, 1] * 3
    assert list(one.private) == list(many.private)
    for name, leaf in one.server.final.items():
        torch.testing.assert_close(leaf, many.server.final[name], rtol=1e-5, atol=1e-5)


@pytest.mark.unit
def test_clients_of_like_size_are_stacked_and_a_large_one_is_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vectorised, "MOST_FLOATS", 2 * 7 * 100)
    assert vectorised.batches([20, 20, 20, 20, 20], 7) == [[0, 1, 2, 3, 4]]
    assert vectorised.batches([20, 1000, 30, 0, 30, 40, 99], 7) == [[3, 0, 2], [4, 5], [6], [1]]
    for sizes in ([1], [0, 0], [101, 101], [3, 50, 50, 51]):
        found = vectorised.batches(sizes, 7)
        assert sorted(row for batch in found for row in batch) == list(range(len(sizes)))
        assert all(len(batch) == 1 or len(batch) * max(sizes[row] for row in batch) <= 100 for batch in found)


@pytest.mark.unit
def test_two_large_clients_are_never_trained_at_a_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vectorised, "MOST_FLOATS", 2 * DIMENSION * 12)
    inside, most, together = [0], [0], vectorised._run_batch

    def watched(task):
        size = max(task.holder.size(name) for name in task.cohort)
        inside[0] += size > 12
        most[0] = max(most[0], inside[0])
        try:
            return together(task)
        finally:
            inside[0] -= size > 12

    monkeypatch.setattr(vectorised, "_run_batch", watched)
    algorithm, federation = make("global", config(server={"rounds": 2})), make_federation((41, 40, 39, 38))
    engine = EngineConfig(name="vectorised", workers=4, cohort=4)
    assert len(list(rounds(algorithm, federation, engine, 7, start(algorithm, federation, 7)))) == 2
    assert most == [1]


@pytest.mark.equivalence
def test_a_client_with_many_pairs_is_read_in_slices(monkeypatch: pytest.MonkeyPatch):
    whole = make_federation((41, 3, 0))
    together = whole.cohort(["client-0", "client-1", "client-2"], "train")
    monkeypatch.setattr(federation_module, "SLICE_ROWS", 4)
    sliced = make_federation((41, 3, 0))
    torch.testing.assert_close(
        torch.from_numpy(sliced.scaling.standardiser.mean), torch.from_numpy(whole.scaling.standardiser.mean)
    )
    again = replace(sliced, scaling=whole.scaling)
    for row, name in enumerate(["client-0", "client-1", "client-2"]):
        alone, size = again.cohort([name], "train"), whole.size(name)
        assert torch.equal(alone.chosen[0, :size], together.chosen[row, :size])
        assert torch.equal(alone.rejected[0, :size], together.rejected[row, :size])
        assert alone.count.tolist() == [size]


@pytest.mark.unit
def test_a_worker_has_one_thread_and_leaves_the_process_its_own():
    torch.set_num_threads(2)
    assert vectorised._pool(3).submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.unit
@pytest.mark.parametrize(("cores", "workers"), [(None, 1), (1, 1), (3, 3), (64, 4)])
def test_the_default_number_of_workers_follows_the_cores(cores: int | None, workers: int, monkeypatch):
    monkeypatch.setattr(vectorised.os, "cpu_count", lambda: cores)
    assert vectorised.default_workers() == workers
