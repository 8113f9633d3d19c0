"""What each choice is worth: the same comparison under one changed option at a time, on any data.

python benchmarks/ablation.py --config configs/world_two_groups.yaml --clients 20 --seeds 3
python benchmarks/ablation.py --config configs/hh_objectives.yaml --clients 100 data.path=PAIRS
features.model=ENCODER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from _machine import machine_facts
from fedvpa.api.compare import compare
from fedvpa.api.config import read_config

CHANGES = {
    "default": [],
    "features without rms": ["selector.normalise=none"],
    "head by AdamW": ["local.head_optimizer=adamw", "local.head_lr=0.002"],
    "encoder 8": ["selector.encoder.pair_widths=[8]"],
    "encoder 512-256-128": ["selector.encoder.pair_widths=[512,256,128]"],
    "no warm-up": ["variational.warmup=0.0"],
    "plain Bayes (gain 0)": ["variational.gain=0.0"],
    "Laplace": ["variational.refinement=laplace"],
    "no refinement": ["variational.refinement=off"],
    "no tail average": ["server.average_tail=0.0"],
}


def main() -> None:
    """Run every change and print its accuracy and gap closed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    rows = []
    for number, (name, change) in enumerate(CHANGES.items()):
        compared = compare(
            read_config(options.config, [*options.overrides, *change]),
            methods=["fedvpa_gp", "global", "oracle"],
            clients=[options.clients],
            seeds=options.seeds,
            out=options.out / str(number),
        )
        row = next(row for row in compared["summary"] if row["method"] == "fedvpa_gp")
        rows.append({"change": name, **{key: row[key] for key in ("mean", "ci95", "gap_closed", "gap_closed_ci95")}})
    print(json.dumps({"machine": machine_facts(), "clients": options.clients, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
