"""Seconds per round of compute-heavy stage 1.

The vectorised engine, the loop engine, and the loop with PyTorch's default AdamW, side by side.

The paper's encoder (896→512→256→128 and two heads of 32), a cohort of 10 of 100 clients, 30 local steps of 32 context
and 32 target pairs. Ways are alternated, medians and spread are printed as JSON, and the results of one round are
compared.

    python benchmarks/stage1_round.py --rounds 3 --threads 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from _machine import machine_facts
from fedvpa.algorithms import MethodConfig, local_training, make
from fedvpa.data import ClientRows, Partition
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.federation import Federation, federate
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.features import FeatureReport, FeatureStore

CLIENTS, PAIRS, DIMENSION = 100, 80, 896
SETTING = MethodConfig.parse(
    {
        "selector": {"encoder": {"pair_widths": [512, 256, 128]}},
        "local": {"steps": 30, "folds": 2, "target_size": 32, "context_size": 32},
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
def default_adamw() -> Iterator[None]:
    """PyTorch's AdamW as it comes, instead of the fused one."""
    fused = local_training._adamw
    local_training._adamw = lambda leaves, lr, decay: torch.optim.AdamW(
        leaves, lr=lr, betas=local_training.ADAM_BETAS, weight_decay=decay
    )
    try:
        yield
    finally:
        local_training._adamw = fused


def one_round(name: str, clients: Federation, state: TrainState, threads: int) -> tuple[float, TrainState]:
    """Seconds of one round, and the state after it."""
    algorithm = make("fedvpa_gp", SETTING)
    engine = EngineConfig(name="vectorised" if name == "vectorised" else "loop", cohort=10, workers=threads)
    began = time.perf_counter()
    if name == "plain":
        with default_adamw():
            after, _ = next(rounds(algorithm, clients, engine, 0, state))
    else:
        after, _ = next(rounds(algorithm, clients, engine, 0, state))
    return time.perf_counter() - began, after


def main() -> None:
    """Alternate the three ways and print medians, ratios and the relative difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clients = federation()
    begin = start(make("fedvpa_gp", SETTING), clients, 0)
    seconds: dict[str, list[float]] = {"plain": [], "loop": [], "vectorised": []}
    after = {}
    for repetition in range(options.rounds + 1):
        for name, found in seconds.items():
            took, after[name] = one_round(name, clients, begin, options.threads)
            if repetition:
                found.append(took)
    whole = torch.cat([leaf.flatten() for leaf in after["loop"].server.params.values()])
    fast = torch.cat([leaf.flatten() for leaf in after["vectorised"].server.params.values()])
    ratios = [plain / quick for plain, quick in zip(seconds["plain"], seconds["vectorised"], strict=True)]
    print(
        json.dumps(
            {
                "machine": machine_facts(),
                "seconds": {
                    name: [min(found), statistics.median(found), max(found)] for name, found in seconds.items()
                },
                "vectorised_over_plain": [min(ratios), statistics.median(ratios), max(ratios)],
                "relative_difference_after_one_round": float((whole - fast).norm() / whole.norm()),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
