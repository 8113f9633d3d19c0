import sys
from itertools import islice
from pathlib import Path

import pytest

from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.registry import make
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import rounds, start

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.reference
def test_an_independent_client_of_modules_trains_the_same_weights(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import stage1_round as benchmark

    small = {
        "selector": {"latent": 5, "prototypes": 3, "encoder": {"pair_widths": [7, 6]}},
        "local": {"steps": 4, "folds": 2, "target_size": 3, "context_size": 5},
        "variational": {"warmup": 0.0},
        "server": {"rounds": 19, "clip_norm": None, "max_weight": None},
    }
    for name, value in {"CLIENTS": 11, "PAIRS": 9, "DIMENSION": 13, "COHORT": 4}.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark, "SETTING", MethodConfig.parse(small))
    clients, algorithm = benchmark.federation(), make("fedvpa_gp", benchmark.SETTING)
    engine = EngineConfig(name="vectorised", cohort=4, workers=1)
    trained = islice(rounds(algorithm, clients, engine, 0, start(algorithm, clients, 0)), 3)
    *_, state = (state for state, _ in trained)
    assert state.server.moments["share"].shape == (3,)
    ours, plain = benchmark.engine_round(clients, engine, state), benchmark.plain_round(clients, state)
    apart = benchmark.difference(ours, plain, state.server.params)
    assert apart["of_change"] < 1e-5, apart
    sys.modules.pop("stage1_round", None)
