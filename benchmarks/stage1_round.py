"""Seconds per round of compute-heavy stage 1: the vectorised engine, the loop engine and a plain client, side by side.

The paper's encoder (896→512→256→128 and two heads of 32), a cohort of 10 of 100 clients, 30 local steps of 32 context
and 32 target pairs, from a state with a mixture prior. ``plain`` is ``tests/plain_fedvpa.py``: modules, one client
after the other, PyTorch's default AdamW. The three are alternated; medians and spread are printed as JSON, with the
processor.

Printed too is how far the weights of ``plain`` and ``loop`` are from those of ``vectorised``, after one local step and
after the whole round, in float32 and in float64. All three compute the same formulas, so every difference is rounding;
how large it becomes is up to AdamW, whose first step is lr · g / (|g| + 1e-8): where a gradient should be zero, its
rounding error decides the sign of a whole step. How gradients round depends on the processor's matrix kernels.

    python benchmarks/stage1_round.py --rounds 5 --threads 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from _machine import machine_facts
from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.registry import make
from fedvpa.data.partition import ClientRows, Partition
from fedvpa.engines import loop, vectorised
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.federation import Federation, federate
from fedvpa.engines.runner import CohortTask, unchanged
from fedvpa.engines.sampling import draw_cohort, identities
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.features.store import FeatureReport, FeatureStore

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from plain_fedvpa import PlainServer, doubled

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


@contextmanager
def double(clients: Federation, state: TrainState) -> Iterator[tuple[Federation, TrainState]]:
    """The same federation and state in float64, for as long as it is torch's default precision."""
    server = state.server
    wide = replace(
        server,
        params={name: leaf.double() for name, leaf in server.params.items()},
        log_prior=server.log_prior.double(),
        spread=server.spread.double(),
        moments={name: leaf.double() for name, leaf in server.moments.items()},
    )
    torch.set_default_dtype(torch.float64)
    try:
        yield doubled(clients), replace(state, server=wide)
    finally:
        torch.set_default_dtype(torch.float32)


def engine_round(
    clients: Federation, engine: EngineConfig, state: TrainState, setting: MethodConfig | None = None
) -> Mapping[str, Tensor]:
    """The server's weights after one round of an engine."""
    after, _ = next(rounds(make("fedvpa_gp", setting or SETTING), clients, engine, 0, state))
    return after.server.params


def cohort_of(clients: Federation, round_: int) -> list[str]:
    """The clients of a round."""
    return draw_cohort(clients.client_ids, identities(clients.client_ids), COHORT, 0, round_)


def bare_round(
    clients: Federation, engine: str, state: TrainState, setting: MethodConfig | None = None
) -> Mapping[str, Tensor]:
    """The same of what an engine computes, without what it checks: in float64 too, which it would not accept."""
    algorithm, cohort = make("fedvpa_gp", setting or SETTING), cohort_of(clients, state.server.round)
    sent = algorithm.broadcast(state.server, cohort)
    task = CohortTask(algorithm, sent, clients, cohort, cohort, state.private, 0, unchanged)
    parts, _ = (loop if engine == "loop" else vectorised).run_cohort(task)
    together = reduce(CohortUpdate.__add__, (part.update for part in parts))
    return algorithm.server_update(state.server, together)[0].params


def plain_round(clients: Federation, state: TrainState, setting: MethodConfig | None = None) -> Mapping[str, Tensor]:
    """The same with plain clients, one after the other."""
    server = state.server
    known = {
        name: dict(zip(own["keys"].tolist(), own["logits"].tolist(), strict=True))
        for name, own in state.private.items()
    }
    plain = PlainServer(
        setting or SETTING,
        dict(server.params),
        seed=0,
        round=server.round,
        log_prior=server.log_prior,
        spread=server.spread.item(),
        moments=dict(server.moments),
        logits=known,
    )
    plain.play({name: clients.held(name) for name in cohort_of(clients, server.round)})
    return plain.params


Runner = Callable[[Federation, TrainState, MethodConfig], Mapping[str, Tensor]]


def runners(workers: int) -> dict[str, Runner]:
    """The three implementations of a round: (clients, state, setting) → the server's weights after it."""
    one_by_one = EngineConfig(name="loop", cohort=COHORT)
    stacked = EngineConfig(name="vectorised", cohort=COHORT, workers=workers)
    return {
        "plain": plain_round,
        "loop": lambda clients, state, setting: engine_round(clients, one_by_one, state, setting),
        "vectorised": lambda clients, state, setting: engine_round(clients, stacked, state, setting),
    }


def difference(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], before: Mapping[str, Tensor]
) -> dict[str, float]:
    """Relative difference of the weights, and of the change that the round made to them.

    ``largest_in_learning_rates`` is the largest difference of a single weight of encoder or prototypes, over AdamW's
    learning rate: about 2 / cohort where one client's step went the other way.
    """
    flat, second, first = (torch.cat([tree[name].flatten() for name in before]) for tree in (one, other, before))
    apart = (flat - second).norm()
    largest = max(float((one[name] - other[name]).abs().max()) for name in before if not name.startswith("head."))
    return {
        "of_weights": float(apart / flat.norm()),
        "of_change": float(apart / (flat - first).norm()),
        "largest_in_learning_rates": largest / SETTING.local.encoder_lr,
    }


def differences(clients: Federation, state: TrainState) -> dict[str, dict[str, dict[str, float]]]:
    """How far ``plain`` and ``loop`` are from ``vectorised`` after one local step, and after a round."""
    one_step = SETTING.model_copy(update={"local": SETTING.local.model_copy(update={"steps": 1})})
    found = {}
    for name, setting in (("one_step", one_step), ("round", SETTING)):
        after = {engine: bare_round(clients, engine, state, setting) for engine in ("loop", "vectorised")}
        after["plain"] = plain_round(clients, state, setting)
        found[name] = {
            which: difference(after["vectorised"], after[which], state.server.params) for which in ("plain", "loop")
        }
    return found


def main() -> None:
    """Alternate the three and print medians, ratios and differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clients, algorithm = federation(), make("fedvpa_gp", SETTING)
    begin, _ = next(
        rounds(algorithm, clients, EngineConfig(name="loop", cohort=COHORT), 0, start(algorithm, clients, 0))
    )
    seconds: dict[str, list[float]] = {name: [] for name in runners(options.threads)}
    for repetition in range(options.rounds + 1):
        for name, run in runners(options.threads).items():
            began = time.perf_counter()
            run(clients, begin, SETTING)
            if repetition:
                seconds[name].append(time.perf_counter() - began)
    apart = {"float32": differences(clients, begin)}
    with double(clients, begin) as (wide_clients, wide_begin):
        apart["float64"] = differences(wide_clients, wide_begin)
    found = {
        "machine": machine_facts(),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "plain_over_vectorised": spread([p / v for p, v in zip(seconds["plain"], seconds["vectorised"], strict=True)]),
        "loop_over_vectorised": spread([p / v for p, v in zip(seconds["loop"], seconds["vectorised"], strict=True)]),
        "relative_difference_to_vectorised": apart,
    }
    print(json.dumps(found, indent=2))


def spread(values: list[float]) -> list[float]:
    """Least, median, greatest."""
    return [round(value, 4) for value in (min(values), statistics.median(values), max(values))]


if __name__ == "__main__":
    main()
