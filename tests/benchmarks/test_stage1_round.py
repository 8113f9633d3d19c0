"""The benchmark of a round compares three writings of one thing: at a small size, they agree."""

from itertools import islice
from pathlib import Path

import pytest

from benchmarks.test_small_runs import load
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.registry import make
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import rounds, start

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = {
    "selector": {"latent": 5, "prototypes": 3, "encoder": {"pair_widths": [7, 6]}},
    "local": {"steps": 4, "folds": 2, "target_size": 3, "context_size": 5},
    "variational": {"warmup": 0.0},
    "server": {"rounds": 19, "clip_norm": None, "max_weight": None},
}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = load("stage1_round", monkeypatch)
    for name, value in {"CLIENTS": 11, "PAIRS": 9, "DIMENSION": 13, "COHORT": 4}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "SETTING", MethodConfig.parse(SMALL))
    return module


@pytest.mark.reference
def test_engines_and_plain_clients_train_the_same_weights(benchmark):
    clients, algorithm = benchmark.federation(), make("fedvpa_gp", benchmark.SETTING)
    engine = EngineConfig(name="vectorised", cohort=4, workers=1)
    trained = islice(rounds(algorithm, clients, engine, 0, start(algorithm, clients, 0)), 3)
    *_, state = (state for state, _ in trained)
    assert state.server.moments["share"].shape == (3,)
    ours, plain = benchmark.engine_round(clients, engine, state), benchmark.plain_round(clients, state)
    apart = benchmark.difference(ours, plain, state.server.params)
    assert apart["of_change"] < 1e-5, apart
    with benchmark.double(clients, state) as (wide, begun):
        found = benchmark.differences(wide, begun)
    assert all(found[span][which]["of_change"] < 1e-8 for span in found for which in ("plain", "loop")), found
