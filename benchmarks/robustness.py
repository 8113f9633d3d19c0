"""What lying clients cost, under each aggregation rule, on the bundled world.

A fifth of the clients send their update with the opposite sign, ``--scale`` times as long. Accuracy is that of the
honest clients.

    python benchmarks/robustness.py --clients 50 --seeds 3
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from _machine import machine_facts
from fedvpa.algorithms.base import Broadcast, ClientUpdate, SelectorAlgorithm
from fedvpa.algorithms.draws import Draws
from fedvpa.algorithms.registry import make
from fedvpa.core.errors import TrainingError
from fedvpa.core.progress import say
from fedvpa.core.seeds import numpy_generator
from fedvpa.core.tree import Tree
from fedvpa.engines.training import rounds, start
from fedvpa.evaluation.accuracy import infer_clients, score_clients
from fedvpa.experiments.processes import run_all
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.prepare import prepare

RULES = {
    "mean": [],
    "mean, clipped": ["server.clip_norm=0.05"],
    "median": ["server.rule=median"],
    "trimmed_mean": ["server.rule=trimmed_mean"],
    "krum": ["server.rule=krum"],
}


@dataclass(frozen=True)
class SignFlipping:
    """An algorithm some of whose clients send the opposite of what they learned."""

    inner: SelectorAlgorithm[Any]
    liars: frozenset[str]
    scale: float

    def __getattr__(self, name: str) -> Any:
        """Everything else as it is."""
        return getattr(self.inner, name)

    def broadcast(self, state: Any, client_ids: Sequence[str]) -> Broadcast:
        """The usual, and the factor of each client's update."""
        sent = self.inner.broadcast(state, client_ids)
        factors = torch.tensor([-self.scale if name in self.liars else 1.0 for name in client_ids])
        return replace(sent, own=sent.own | {"factor": factors})

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """The usual, times the factor."""
        factor = received["factor"]
        update, kept = self.inner.client_update(received, held, private, draws)
        sums = {
            name: leaf * factor.reshape(factor.shape + (1,) * (leaf.ndim - factor.ndim))
            if name.startswith("delta.")
            else leaf
            for name, leaf in update.sums.items()
        }
        return ClientUpdate(sums, update.own), kept


def honest_accuracy(attack: tuple[RunConfig, float, float]) -> float:
    """Mean test accuracy of the honest clients, for a share of liars and the factor of what they send.

    A training that the liars make diverge is scored with the last weights that were finite numbers; stderr says so.
    """
    config, share, scale = attack
    prepared = prepare(config)
    federation = prepared.federation
    ids = list(federation.client_ids)
    order = numpy_generator(config.seed, "liars").permutation(len(ids))
    liars = frozenset(ids[row] for row in order[: round(share * len(ids))])
    algorithm = SignFlipping(make(config.method, config.method_config), liars, scale)
    state = start(algorithm, federation, config.seed)
    try:
        for reached, _ in rounds(algorithm, federation, config.engine, config.seed, state):
            state = reached
    except TrainingError as error:
        say(f"seed {config.seed}, {len(liars)} liars: {error}")
    selector = algorithm.selector(state.server)
    honest = [client for client in federation.partition.seen if client.client_id not in liars]
    posterior = infer_clients(selector, federation, honest)
    scores = score_clients(selector, federation, honest, posterior, method=config.method, seed=config.seed)
    return float(np.mean([score.accuracy for score in scores]))


def main() -> None:
    """Every rule with and without liars, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    configs = {
        (name, seed): read_config(None, ["data.population=two-groups", "engine.workers=1", *change])
        .with_clients(options.clients)
        .with_seed(seed)
        for name, change in RULES.items()
        for seed in range(options.seeds)
    }
    attacks = {
        (name, seed, share): (config, share, options.scale)
        for (name, seed), config in configs.items()
        for share in (0.0, options.share)
    }
    found = dict(zip(attacks, run_all(honest_accuracy, list(attacks.values()), options.jobs), strict=True))
    rows = []
    for name in RULES:
        accuracy = {
            share: [found[name, seed, share] for seed in range(options.seeds)] for share in (0.0, options.share)
        }
        row = {"rule": name}
        for label, share in (("honest", 0.0), ("attacked", options.share)):
            row |= {
                label: round(float(np.mean(accuracy[share])), 4),
                f"{label}_sd": round(float(np.std(accuracy[share])), 4),
            }
        rows.append(row)
    print(json.dumps({"machine": machine_facts(), "settings": vars(options), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
