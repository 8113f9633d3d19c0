"""The same stage-1 rounds on the vectorised engine and in Flower's simulation (Ray), on one machine.

Two settings: the compute-heavy round of ``stage1_round.py``, seconds per round; and the default configuration at
N = 100 for 50 rounds, start and stop included. Needs ``fedvpa[flower]``.

    python benchmarks/flower_round.py --heavy-rounds 4 --rounds 50
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

import stage1_round
from _machine import machine_facts
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.registry import make
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.federation import Federation
from fedvpa.engines.training import rounds, start


def run(name: str, federation: Federation, setting: MethodConfig, threads: int) -> dict[str, float]:
    """Whole seconds of a run, start and stop included, and the median round after the first."""
    algorithm = make("fedvpa_gp", setting)
    engine = EngineConfig(name=name, cohort=stage1_round.COHORT, workers=threads)
    began = time.perf_counter()
    lines = [line for _, line in rounds(algorithm, federation, engine, 0, start(algorithm, federation, 0))]
    whole = time.perf_counter() - began
    return {"whole": round(whole, 3), "round": statistics.median(line["seconds"] for line in lines[1:])}


def compared(federation: Federation, setting: MethodConfig, threads: int) -> dict[str, object]:
    """Both engines, one after the other."""
    found = {name: run(name, federation, setting, threads) for name in ("vectorised", "flower", "vectorised")}
    ours, theirs = found["vectorised"], found["flower"]
    return found | {
        "flower_over_vectorised_per_round": round(theirs["round"] / ours["round"], 2),
        "flower_over_vectorised_whole": round(theirs["whole"] / ours["whole"], 2),
    }


def main() -> None:
    """Run both settings and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heavy-rounds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    federation = stage1_round.federation()
    heavy = MethodConfig.parse({**stage1_round.SETTING.model_dump(), "server": {"rounds": options.heavy_rounds}})
    usual = MethodConfig.parse({"server": {"rounds": options.rounds}})
    found = {
        "machine": machine_facts(),
        "heavy": compared(federation, heavy, options.threads),
        "default, 100 clients": compared(federation, usual, options.threads),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
