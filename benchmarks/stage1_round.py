"""Seconds per round of compute-heavy stage 1: the vectorised engine, the loop engine and a plain client, side by side.

The paper's encoder (896→512→256→128 and two heads of 32), a cohort of 10 of 100 clients, 30 local steps of 32 context
and 32 target pairs, from a state with a mixture prior. ``plain`` is ``plain_client.py``: modules, one client after the
other, PyTorch's default AdamW. Ways are alternated; medians and spread are printed as JSON, with the relative
difference of the weights after the round.

    python benchmarks/stage1_round.py --rounds 5 --threads 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from _machine import machine_facts
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.registry import make
from fedvpa.data.partition import ClientRows, Partition
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.federation import Federation, federate
from fedvpa.engines.sampling import draw_cohort, identities
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.features.store import FeatureReport, FeatureStore
from plain_client import average, train_client

CLIENTS, PAIRS, DIMENSION, COHORT = 100, 80, 896, 10
SETTING = MethodConfig.parse(
    {
        "selector": {"encoder": {"pair_widths": [512, 256, 128]}},
        "local": {"steps": 30, "folds": 2, "target_size": 32, "context_size": 32},
        "variational": {"warmup": 0.0},
        "server": {"rounds": 1000},
    }
)


def federation() -> Federation:
    """Random features; only their shapes matter."""
    rows = CLIENTS * PAIRS
    chosen, rejected = np.random.default_rng(0).standard_normal((2, rows, DIMENSION)).astype(np.float32)
    report = FeatureReport(rows, DIMENSION, "encoder", 0, "random", 0, 0, 0, 0)
    ids = np.arange(rows).reshape(CLIENTS, PAIRS)
    clients = tuple(ClientRows(f"{row}", "ab"[row % 2], True, mine, mine[:0], mine[:0]) for row, mine in enumerate(ids))
    return federate(FeatureStore(chosen, rejected, report), Partition(clients), rms=True)


def engine_round(clients: Federation, engine: EngineConfig, state: TrainState) -> Mapping[str, Tensor]:
    """The server's weights after one round of an engine."""
    after, _ = next(rounds(make("fedvpa_gp", SETTING), clients, engine, 0, state))
    return after.server.params


def plain_round(clients: Federation, state: TrainState) -> Mapping[str, Tensor]:
    """The same with plain clients, one after the other."""
    algorithm, server = make("fedvpa_gp", SETTING), state.server
    cohort = draw_cohort(clients.client_ids, identities(clients.client_ids), COHORT, 0, server.round)
    received = algorithm.broadcast(server, cohort)
    trained = []
    for name in cohort:
        draws = algorithm.draw(0, server.round, name, clients.train_size(name), len(received.components))
        trained.append(train_client(SETTING, server, received, name, clients.pairs(name, "train"), draws))
    return average(server.params, trained, [clients.train_size(name) for name in cohort])


def difference(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], before: Mapping[str, Tensor]
) -> dict[str, float]:
    """Relative difference of the weights, and of the change that the round made to them."""
    flat, second, first = (torch.cat([tree[name].flatten() for name in before]) for tree in (one, other, before))
    apart = (flat - second).norm()
    return {"of_weights": float(apart / flat.norm()), "of_change": float(apart / (flat - first).norm())}


def main() -> None:
    """Alternate the three ways and print medians, ratios and differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clients = federation()
    engines = {
        "loop": EngineConfig(name="loop", cohort=COHORT),
        "vectorised": EngineConfig(name="vectorised", cohort=COHORT, workers=options.threads),
    }
    begin, _ = next(
        rounds(make("fedvpa_gp", SETTING), clients, engines["loop"], 0, start(make("fedvpa_gp", SETTING), clients, 0))
    )
    ways = {
        "plain": lambda: plain_round(clients, begin),
        "loop": lambda: engine_round(clients, engines["loop"], begin),
        "vectorised": lambda: engine_round(clients, engines["vectorised"], begin),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    after = {}
    for repetition in range(options.rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            after[name] = way()
            if repetition:
                seconds[name].append(time.perf_counter() - began)
    found = {
        "machine": machine_facts(),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "plain_over_vectorised": spread([p / v for p, v in zip(seconds["plain"], seconds["vectorised"], strict=True)]),
        "loop_over_vectorised": spread([p / v for p, v in zip(seconds["loop"], seconds["vectorised"], strict=True)]),
        "relative_difference_to_vectorised": {
            name: difference(after["vectorised"], after[name], begin.server.params) for name in ("plain", "loop")
        },
    }
    print(json.dumps(found, indent=2))


def spread(values: list[float]) -> list[float]:
    """Least, median, greatest."""
    return [round(value, 4) for value in (min(values), statistics.median(values), max(values))]


if __name__ == "__main__":
    main()
