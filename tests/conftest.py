"""A tiny federation in memory, for every test of algorithms and engines."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before PyTorch is imported, here and in processes that tests start. Threads that wait for others spin by default, and
# take the core from those that compute where several processes share a machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

# Shapes in signatures are enforced wherever tests run the package; before its first import.
install_import_hook(
    [
        f"fedvpa.{room}"
        for room in (
            "objectives",
            "selector",
            "algorithms",
            "features",
            "models.batching",
            "evaluation.accuracy",
            "evaluation.judges.length_control",
            "rewards.world",
            "rewards.styles",
            "styles.standard",
            "styles.utility",
            "styles.fluency",
            "styles.properties",
            "styles.pairs",
        )
    ],
    "beartype.beartype",
)

from fedvpa.data.partition import ClientRows, Partition
from fedvpa.engines.federation import Federation, federate
from fedvpa.features.store import FeatureReport, FeatureStore

torch.set_num_threads(1)  # of fixtures too, which are made before any test

SIZES = (11, 7, 1, 0, 5, 13)
DIMENSION = 17


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDVPA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


def random_store(rows: int, seed: int = 0) -> FeatureStore:
    rng = np.random.default_rng(seed)
    chosen, rejected = rng.standard_normal((2, rows, DIMENSION)).astype(np.float32)
    report = FeatureReport(
        pairs=rows,
        dimension=DIMENSION,
        kind="encoder",
        pairs_sharing_prompt=0,
        obstacle="random",
        prompt_tokens=0,
        response_tokens=0,
        prompts_truncated=0,
        responses_truncated=0,
    )
    return FeatureStore(chosen, rejected, report)


def make_federation(sizes: tuple[int, ...] = SIZES, seed: int = 0, tests: int = 3) -> Federation:
    """Clients of unequal size, one with a single training pair, one with none; two groups by turns."""
    clients, start = [], 0
    for number, size in enumerate(sizes):
        rows = np.arange(start, start + size + tests)
        start += size + tests
        group = "ab"[number % 2]
        clients.append(ClientRows(f"client-{number}", group, True, rows[:size], rows[:0], rows[size:]))
    return federate(random_store(start, seed), Partition(tuple(clients)), rms=True)


@pytest.fixture(scope="session")
def federation() -> Federation:
    return make_federation()
