"""Peak memory and time of a round in which one client has very many pairs, and all others few.

Features lie in float16 memory maps. Prints JSON.

    python benchmarks/large_client.py                       # 50,000 pairs among 99 clients of 40, at d = 896
    python benchmarks/large_client.py --large 40            # the same without a large client
"""

from __future__ import annotations

import argparse
import json
import resource
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


def federation(folder: Path, sizes: list[int], dimension: int) -> Federation:
    """Random features on disk; written in slices so that memory says nothing about them."""
    pairs = sum(sizes)
    sides = []
    for name in ("chosen", "rejected"):
        side = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (pairs, dimension))
        rng = np.random.default_rng(len(name))
        for begin in range(0, pairs, 5_000):
            side[begin : begin + 5_000] = rng.standard_normal((min(5_000, pairs - begin), dimension))
        side.flush()
        del side
        sides.append(np.load(folder / f"{name}.npy", mmap_mode="r"))
    report = FeatureReport(pairs, dimension, "encoder", 0, "random", 0, 0, 0, 0)
    held, end = [], 0
    for number, size in enumerate(sizes):
        rows = np.arange(end, end + size)
        held.append(ClientRows(f"{number}", "ab"[number % 2], True, rows, rows[:0], rows[:0]))
        end += size
    return federate(FeatureStore(sides[0], sides[1], report), Partition(tuple(held)), rms=True)


def peak_mib() -> float:
    """Of this process until now. Pages of memory maps that were touched count, though the system may drop them."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(sizes: list[int], dimension: int, method: str, count: int, workers: int) -> dict[str, float]:
    """Rounds in which all clients take part."""
    algorithm = make(method, MethodConfig.parse({"server": {"rounds": count}}))
    with tempfile.TemporaryDirectory() as folder:
        before = peak_mib()
        held = federation(Path(folder), sizes, dimension)
        ready, began = peak_mib(), time.perf_counter()
        engine = EngineConfig(workers=workers, cohort=len(sizes))
        for _ in rounds(algorithm, held, engine, 0, start(algorithm, held, 0)):
            pass
        seconds = (time.perf_counter() - began) / count
    return {
        "imported_mib": before,
        "set_up_peak_mib": ready,
        "peak_mib": peak_mib(),
        "seconds_per_round": seconds,
    }


def main() -> None:
    """Measure one federation; a process has one peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", type=int, default=50_000)
    parser.add_argument("--others", type=int, nargs=2, default=[99, 40], metavar=("CLIENTS", "PAIRS"))
    parser.add_argument("--dimension", type=int, default=896)
    parser.add_argument("--method", default="fedvpa_gp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clients, pairs = options.others
    found = measure(
        [options.large] + [pairs] * clients, options.dimension, options.method, options.rounds, options.workers
    )
    print(json.dumps({"machine": machine_facts(), "setting": vars(options), **found}, indent=2))


if __name__ == "__main__":
    main()
