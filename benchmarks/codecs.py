"""What codecs save and cost on the bundled world: bytes per client and round, and accuracy against fp32.

python benchmarks/codecs.py --clients 50 --seeds 5
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from _machine import machine_facts
from fedvpa.algorithms.registry import make
from fedvpa.engines.training import rounds, start
from fedvpa.experiments.processes import run_all
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.fit import fit
from fedvpa.runs.prepare import prepare
from fedvpa.runs.scores import run_scores


def run(config: RunConfig) -> tuple[float, float, float]:
    """Mean accuracy of the seen clients, and bytes up and down per client and round."""
    prepared = prepare(config)
    algorithm, federation = make(config.method, config.method_config), prepared.federation
    _, line = next(rounds(algorithm, federation, config.engine, config.seed, start(algorithm, federation, config.seed)))
    done = fit(config, prepared)
    scores = run_scores(config, prepared, done)
    own = [score.accuracy for score in scores if score.seen and score.method == config.method]
    asked = len(line["cohort"])
    return float(np.mean(own)), line["uplink_bytes"] / asked, line["downlink_bytes"] / asked


def main() -> None:
    """Every codec, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    cells = {
        (codec, seed): read_config(None, ["data.population=two-groups", "engine.workers=1", f"engine.codec={codec}"])
        .with_clients(options.clients)
        .with_seed(seed)
        for codec in ("fp32", "fp16", "int8")
        for seed in range(options.seeds)
    }
    found = dict(zip(cells, run_all(run, list(cells.values()), options.jobs), strict=True))
    exact = np.array([found["fp32", seed][0] for seed in range(options.seeds)])
    rows = []
    for codec in ("fp32", "fp16", "int8"):
        accuracy = np.array([found[codec, seed][0] for seed in range(options.seeds)])
        lost = 100 * (exact - accuracy)
        rows.append(
            {
                "codec": codec,
                "accuracy": round(float(accuracy.mean()), 4),
                "points_lost": round(float(lost.mean()), 3),
                "points_lost_by_seed": lost.round(2).tolist(),
                "uplink_bytes": found[codec, 0][1],
                "downlink_bytes": found[codec, 0][2],
            }
        )
    print(json.dumps({"machine": machine_facts(), "settings": vars(options), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
