"""What noise of the nodes costs on the bundled world beside noise of the server, at the same noise multiplier and ε.

Both are user-level (ε, δ)-differentially private for whoever has the released model. With noise of the nodes ε also
holds for the server, and there is more noise, since nodes may drop out. Each user is on a node of its own. What nodes
send is what they send in a deployment, integers with noise, added up here in one process: masks, which cancel out in
the sum, and messages are left out (``benchmarks/secure_aggregation.py`` has what they cost). Nodes' noise comes from
the operating system, coins and the server's noise follow from the seed. Needs ``fedvpa[flower,privacy]``.

    python benchmarks/noise_of_nodes.py --cell 100,50,50,8 --seeds 5

One JSON object is printed; stderr says how far it is.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch

from _machine import machine_facts
from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.server.robust import Part
from fedvpa.core.progress import say
from fedvpa.engines import vectorised
from fedvpa.engines.runner import CohortResult, CohortTask
from fedvpa.engines.training import rounds
from fedvpa.evaluation.accuracy_tables import comparison
from fedvpa.privacy.quantised import Words, restored
from fedvpa.privacy.shares import Shares
from fedvpa.privacy.thresholds import threshold_of
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.fit import SelectorJob
from fedvpa.runs.prepare import prepare
from fedvpa.runs.scores import run_scores
from privacy_world import CONFIG, YARDSTICKS, Cell

NODES = ["engine.name=flower", "engine.secure_aggregation=true", "privacy.noise=clients"]


class Nodes:
    """A cohort of nodes with one client each, without masks; with noise alone from further ones if they are few."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, task: CohortTask) -> CohortResult:
        """The sum of their integers, as the server reads it."""
        layout = task.layout
        assert isinstance(layout, Shares)
        parts, kept = vectorised.run_cohort(task)
        updates = [[part.update.sums] for part in parts] + [[]] * max(0, layout.least - len(parts))
        threshold = threshold_of(len(updates), self.share)
        sent = (layout.noised(one, task.broadcast.shared, threshold, os.urandom) for one in updates)
        total = restored(layout, reduce(Words.__add__, sent))
        noise = len(updates) * layout.node_deviation(threshold) ** 2
        return [Part(tuple(part.clients[0] for part in parts), CohortUpdate(total), noise)], kept


def trained(config: RunConfig) -> tuple[float, dict[str, Any] | None]:
    """Train in memory: mean accuracy on the users' test pairs, and what was spent."""
    job = SelectorJob(config, prepare(config))
    if config.privacy.in_shares:
        federation, nodes = job.prepared.federation, Nodes(config.engine.secure_share)
        going = rounds(
            job.algorithm, federation, config.engine, config.seed, job.state, runner=nodes, privacy=job.privacy
        )
        for state, _ in going:
            job.state = state
    else:
        for _ in job.run():
            pass
    scores = run_scores(config, job.prepared, job.finish(0.0))
    row = comparison(scores, {(config.method, len(job.prepared.federation.client_ids), config.seed): 0.0}).summary[0]
    assert row.mean is not None
    return float(row.mean), job.spent()


def measured(cell: Cell, method: str, seeds: Sequence[int], more: Sequence[str]) -> dict[str, Any]:
    """Accuracy of each kind of training, and its gap closed: (accuracy − global) / (oracle − global)."""
    kinds = {name: [*cell.plain, f"method={name}"] for name in YARDSTICKS}
    own = [*cell.private, f"method={method}"]
    kinds |= {"without noise": [*cell.plain, f"method={method}"], "server": own, "nodes": [*own, *NODES]}
    found: dict[str, list[float]] = {}
    said: dict[str, dict[str, Any] | None] = {}
    for seed in seeds:
        for kind, settings in kinds.items():
            config = read_config(CONFIG, [*settings, f"seed={seed}", f"data.seed={seed}", *more])
            accuracy, said[kind] = trained(config)
            found.setdefault(kind, []).append(accuracy)
            say(f"seed {seed}, {kind}: {accuracy:.4f}")
    means = {kind: float(np.mean(some)) for kind, some in found.items()}
    worst, best = (means[name] for name in YARDSTICKS)
    rows = {
        kind: {
            "accuracy": round(means[kind], 4),
            "each": [round(one, 4) for one in some],
            "gap_closed": round((means[kind] - worst) / (best - worst), 3),
        }
        for kind, some in found.items()
    }
    names = ("noise", "noise_multiplier", "delta", "rounds", "epsilon_released", "epsilon_server")
    return {"rows": rows, "privacy": {kind: {name: one[name] for name in names} for kind, one in said.items() if one}}


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", type=Cell.read, default=Cell(100, 50, 50, 8.0), help="as of privacy_world.py")
    parser.add_argument("--method", default="fedem")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="KEY.PATH=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(options.cell, options.method, range(options.seeds), options.overrides)
    print(json.dumps({"machine": machine_facts(), "cell": vars(options.cell), **found}, indent=2))


if __name__ == "__main__":
    main()
