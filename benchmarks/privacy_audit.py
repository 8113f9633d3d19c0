"""What attacks on the bundled world find, with privacy off and on, side by side.

    published     posteriors are exchanged as published (variational.prior=posteriors)
    additive      the default: sums alone, no noise
    clipped       the same with clips, canaries, and noise of a millionth: what canaries show where nothing hides them
    private       noise for the given ε, and canaries

Each setting is trained and audited (``fedvpa audit``) once a seed. The server's view is given with secure aggregation
and without in every setting: what it would see. Coins and noise follow from the seed: a simulation.

    python benchmarks/privacy_audit.py                                     # N = 1,000, five seeds
    python benchmarks/privacy_audit.py --clients 1000 --seeds 1 --pairs 20   # a few minutes on one core

One JSON object is printed: for each setting and figure the mean over seeds, the lowest and the highest. stderr says how
far it is.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from _machine import machine_facts
from fedvpa.api.audit import audit
from fedvpa.api.train import train
from fedvpa.core.progress import say
from fedvpa.runs.config import read_config

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "world_two_groups.yaml"

SETTINGS = ("published", "additive", "clipped", "private")


def settings(epsilon: float, delta: float, canaries: int) -> dict[str, list[str]]:
    """Setting → its overrides."""
    planted = [f"privacy.delta={delta}", f"privacy.canaries={canaries}", "privacy.seeded=true"]
    planted += ["selector.rotation=none"]
    return {
        "published": ["variational.prior=posteriors"],
        "additive": [],
        "clipped": ["privacy.noise_multiplier=1e-6", *planted],
        "private": [f"privacy.epsilon={epsilon}", *planted],
    }


def figures(found: Mapping[str, Any]) -> dict[str, float]:
    """Figure → value, of one audit; what could not be tried is left out."""
    values = {
        f"group, {row['who']}: {row['sees']}": row["guessed"]["auc"] for row in found["attributes"] if row["guessed"]
    }
    if found["membership"]:
        values |= {"who trained, AUC": found["membership"]["auc"], "who trained, TPR at 1%": found["membership"]["tpr"]}
    for who in ("released", "server") if found["canaries"] else ():
        one = found["canaries"][who]
        values |= {f"canaries, {who}: claimed": one["claimed"], f"canaries, {who}: shown": one["shown"]}
        values |= {f"canaries, {who}: share of the most": one["shown"] / found["canaries"]["largest"]}
        if one["membership"]:
            values |= {f"canaries, {who}: TPR at 1%": one["membership"]["tpr"]}
    return values


def measure(
    overrides: Sequence[str], named: Mapping[str, Sequence[str]], seeds: Sequence[int], path: Path | None = CONFIG
) -> dict[str, dict[str, dict[str, float]]]:
    """Setting → figure → mean, lowest and highest over seeds.

    Args:
        overrides: For every training.
        named: Setting → further ones.
        seeds: Of users, training, coins and noise.
        path: The configuration under them.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in named}
    for seed in seeds:
        for name, own in named.items():
            config = read_config(path, [*overrides, *own, f"seed={seed}", f"data.seed={seed}"])
            with tempfile.TemporaryDirectory() as folder:
                train(config, Path(folder) / "run")
                one = figures(audit(Path(folder) / "run").to_dict())
            for key, value in one.items():
                found[name].setdefault(key, []).append(value)
            say(f"seed {seed}, {name}: {json.dumps({key: round(value, 3) for key, value in one.items()})}")
    return {
        name: {
            key: {"mean": float(np.mean(some)), "lowest": min(some), "highest": max(some)} for key, some in rows.items()
        }
        for name, rows in found.items()
    }


def main() -> None:
    """Train, audit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--unseen", type=int, default=300, help="Users that do not train, for membership inference.")
    parser.add_argument("--pairs", type=int, default=50, help="Pairs of each user.")
    parser.add_argument("--cohort", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--epsilon", type=float, default=3.0)
    parser.add_argument("--delta", type=float, default=1e-4)
    parser.add_argument("--canaries", type=int, default=500)
    parser.add_argument("--method", default="fedvpa_gp")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=SETTINGS)
    options = parser.parse_args()
    overrides = [
        f"partition.clients={options.clients}",
        f"partition.unseen={options.unseen}",
        f"data.pairs_per_user={options.pairs}",
        f"engine.cohort={options.cohort}",
        f"server.rounds={options.rounds}",
        f"method={options.method}",
        "engine.checkpoint_every=0",
    ]
    known = settings(options.epsilon, options.delta, options.canaries)
    named, first = {name: known[name] for name in options.settings}, options.first_seed
    found = measure(overrides, named, range(first, first + options.seeds))
    print(json.dumps({"machine": machine_facts(), "settings": vars(options), "figures": found}, indent=2))


if __name__ == "__main__":
    main()
