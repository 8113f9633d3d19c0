"""What the bits of a result depend on: the number of workers, and of torch's threads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conftest import make_federation
from fedvpa.algorithms.registry import make
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
    """Every weight, posterior and private logit."""
    found = {name: leaf.numpy().tobytes() for name, leaf in state.server.final.items()}
    for name, posterior in state.server.posteriors.items():
        found |= {f"{part} of {name}": leaf.numpy().tobytes() for part, leaf in posterior.items()}
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
