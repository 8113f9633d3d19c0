"""Time and memory per round as the population grows at a fixed cohort of 10.

Features lie in float16 memory maps; every client holds eight training pairs. Prints JSON.

    python benchmarks/scale_clients.py
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from _machine import machine_facts
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.registry import make
from fedvpa.data.partition import ClientRows, Partition
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.federation import Federation, federate
from fedvpa.engines.training import rounds, start
from fedvpa.features.store import FeatureReport, FeatureStore

PAIRS, DIMENSION = 8, 128


def federation(folder: Path, clients: int) -> Federation:
    """Random features on disk; written in slices so that memory says nothing about them."""
    rows = clients * PAIRS
    sides = []
    for name in ("chosen", "rejected"):
        side = np.lib.format.open_memmap(folder / f"{name}-{clients}.npy", "w+", np.float16, (rows, DIMENSION))
        rng = np.random.default_rng(len(name))
        for begin in range(0, rows, 80_000):
            side[begin : begin + 80_000] = rng.standard_normal((min(80_000, rows - begin), DIMENSION))
        sides.append(side)
    report = FeatureReport(rows, DIMENSION, "encoder", 0, "random", 0, 0, 0, 0)
    ids = np.arange(rows).reshape(clients, PAIRS)
    held = tuple(ClientRows(f"{row}", "ab"[row % 2], True, mine, mine[:0], mine[:0]) for row, mine in enumerate(ids))
    return federate(FeatureStore(sides[0], sides[1], report), Partition(held), rms=True)


def main() -> None:
    """Measure each population in turn, smallest first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--clients", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    algorithm = make("fedvpa_gp", MethodConfig.parse({"server": {"rounds": options.rounds}}))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for clients in options.clients:
            began = time.perf_counter()
            held = federation(Path(folder), clients)
            ready = time.perf_counter() - began
            lines = [line for _, line in rounds(algorithm, held, EngineConfig(workers=1), 0, start(algorithm, held, 0))]
            seconds = [line["seconds"] for line in lines[5:]]
            rows.append(
                {
                    "clients": clients,
                    "set_up_seconds": ready,
                    "median_ms_per_round": 1e3 * statistics.median(seconds),
                    "p10_p90_ms": [1e3 * float(np.quantile(seconds, q)) for q in (0.1, 0.9)],
                    "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                }
            )
    print(json.dumps({"machine": machine_facts(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
