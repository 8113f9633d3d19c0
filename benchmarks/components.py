"""How many components and which width FedEB keeps, deal by deal, and by how much evidence.

    python benchmarks/components.py --config configs/world_two_groups.yaml --clients 10 --seeds 10
    python benchmarks/components.py --config configs/hh_objectives.yaml --clients 50,100 data.path=P features.model=M

Prints a line of JSON for each number of clients and seed: the number of components that is kept, its variance σ², and
of each number that was tried the log evidence of training pairs above chance, in thousandths of a nat per pair.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fedvpa.algorithms.fedeb import FedEB
from fedvpa.runs.config import read_config
from fedvpa.runs.fit import SelectorJob
from fedvpa.runs.prepare import prepare


def kept(config: Path, overrides: list[str]) -> dict[str, Any]:
    """Train once and say what is kept."""
    settings = read_config(config, overrides=overrides)
    job = SelectorJob(settings, prepare(settings))
    for _ in job.run():
        pass
    algorithm, state = job.algorithm, job.state.server
    assert isinstance(algorithm, FedEB)
    sizes = algorithm.sizes(state.clients)
    evidence = state.evidence.gather(-1, state.width.unsqueeze(-1)).squeeze(-1)
    selector = algorithm.selector(state)
    components = selector.config.prototypes
    return {
        "components": components,
        "variance": algorithm.widths[int(state.width[sizes.index(components)])],
        "evidence": {str(size): round(1e3 * float(value), 2) for size, value in zip(sizes, evidence, strict=True)},
    }


def main() -> None:
    """Over numbers of clients and seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--clients", default="10", help="comma-separated")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", metavar="KEY.PATH=VALUE")
    options = parser.parse_args()
    for clients in map(int, options.clients.split(",")):
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            own = ["method=fedeb", f"partition.clients={clients}", f"seed={seed}", *options.overrides]
            print(json.dumps({"clients": clients, "seed": seed, **kept(options.config, own)}), flush=True)


if __name__ == "__main__":
    main()
