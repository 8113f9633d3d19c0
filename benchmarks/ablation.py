"""What each choice is worth, on validation pairs: one option changed at a time. The defaults were chosen by this.

No test pair is scored. Every client keeps a fifth of its pairs for validation and trains on the others; it is scored on
the validation pairs of all clients of its group, which is far less noisy than its own few. Gap closed is
(accuracy − global)/(oracle − global), with both yardsticks under the default options.

    python benchmarks/ablation.py --config configs/world_two_groups.yaml --clients 50
    python benchmarks/ablation.py --config configs/hh_objectives.yaml --clients 10,50,100 data.path=P features.model=M
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from _machine import machine_facts
from fedvpa.evaluation.accuracy import score_clients
from fedvpa.experiments.processes import run_all
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.fit import fit
from fedvpa.runs.prepare import prepare

CHANGES = {
    "default": [],
    "features without rms": ["selector.normalise=none"],
    "head by AdamW": ["local.head_optimizer=adamw", "local.head_lr=0.002"],
    "head lr 0.025": ["local.head_lr=0.025"],
    "head lr 0.1": ["local.head_lr=0.1"],
    "head L2 0.1": ["local.head_weight_decay=0.1"],
    "head L2 0.4": ["local.head_weight_decay=0.4"],
    "encoder 8": ["selector.encoder.pair_widths=[8]"],
    "encoder 512-256-128": ["selector.encoder.pair_widths=[512,256,128]"],
    "no warm-up": ["variational.warmup=0.0"],
    "plain Bayes (gain 0)": ["variational.gain=0.0"],
    "gain 3": ["variational.gain=3.0"],
    "gain 6": ["variational.gain=6.0"],
    "gain 10": ["variational.gain=10.0"],
    "responsibilities": ["variational.refinement=responsibilities"],
    "Laplace": ["variational.refinement=laplace"],
    "no refinement": ["variational.refinement=off"],
    "no tail average": ["server.average_tail=0.0"],
    "tail average 0.3": ["server.average_tail=0.3"],
    "tail average 0.5": ["server.average_tail=0.5"],
    "10 folds, 10 steps of half the size": ["local.folds=10", "local.steps=10", "local.head_lr=0.025"],
}

VALIDATION = ["partition.validation_fraction=0.2", "partition.test_fraction=0.1", "partition.unseen=0"]


def pooled_accuracy(config: RunConfig) -> float:
    """Mean over clients of the accuracy on the validation pairs of all clients of their group."""
    prepared = prepare(config)
    done = fit(config, prepared)
    federation, posterior = prepared.federation, done.seen.posterior
    assert posterior is not None
    seen = federation.partition.seen
    groups = {str(client.group) for client in seen}
    rows = {name: np.concatenate([client.validation for client in seen if client.group == name]) for name in groups}
    scores = score_clients(
        done.selector,
        federation,
        seen,
        posterior,
        method=config.method,
        seed=config.seed,
        split="validation",
        holdout={name: federation.read(mine) for name, mine in rows.items()},
    )
    return float(np.mean([score.holdout_accuracy for score in scores]))


def main() -> None:
    """Run every change and print accuracy and gap closed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--clients", default="10,50,100")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--changes", default="", help="names, separated by ';'; all by default")
    parser.add_argument("--also", action="append", default=[], help="another change: 'key=value key=value'")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    changes = {name: CHANGES[name] for name in filter(None, options.changes.split(";"))} or CHANGES
    changes |= {text: text.split() for text in options.also}
    yardsticks = {"global": ["method=global"], "oracle": ["method=oracle"]}
    counts = [int(count) for count in options.clients.split(",")]
    cells = {
        (name, count, seed): read_config(options.config, [*options.overrides, *VALIDATION, *change])
        .with_clients(count)
        .with_seed(options.first_seed + seed)
        for name, change in (yardsticks | changes).items()
        for count in counts
        for seed in range(options.seeds)
    }
    for config in {config.data.seed: config for config in cells.values()}.values():
        prepare(config)
    found = dict(zip(cells, run_all(pooled_accuracy, list(cells.values()), options.jobs), strict=True))
    rows = []
    for count in counts:
        mean = {
            name: np.array([found[name, count, seed] for seed in range(options.seeds)])
            for name in [*yardsticks, *changes]
        }
        low, high = mean["global"].mean(), mean["oracle"].mean()
        for name, values in mean.items():
            error = float((values - mean["global"]).std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
            rows.append(
                {
                    "clients": count,
                    "change": name,
                    "accuracy": round(float(values.mean()), 4),
                    "standard_error_of_difference_to_global": error,
                    "gap_closed": round(float((values.mean() - low) / (high - low)), 3),
                }
            )
    print(json.dumps({"machine": machine_facts() | {"threads": 1}, "seeds": options.seeds, "rows": rows}, indent=2))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
