"""What lying clients cost, in each way of lying and under each aggregation rule, on the bundled world.

A fifth of the clients lie in every round about what they send, after the limits that honest clients keep to. Accuracy
is that of the honest clients, beside the same training in which nobody lies. ``rejected`` is the share of the liars'
updates that the server rejected; the others count within the limits. Lies that are rejected in every round give one
and the same result, that of clients that do not answer, so one of them will do where time is short:

    python benchmarks/robustness.py --lies "weight 1e9" "opposite within the limits"
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from _machine import machine_facts
from fedvpa.algorithms.base import ClientUpdate
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server.limits import EXCESS
from fedvpa.core.errors import TrainingError
from fedvpa.core.progress import say
from fedvpa.core.seeds import numpy_generator
from fedvpa.core.tree import Tree
from fedvpa.engines.training import rounds, start
from fedvpa.evaluation.accuracy import infer_clients, score_clients
from fedvpa.evaluation.student import t_quantile
from fedvpa.experiments.processes import run_all
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.prepare import prepare

NOBODY = "nobody lies"
WEIGHT = 1e6
"""What a liar claims to weigh while the largest weight is not announced yet."""

LONG = 50.0
"""How many times too long an opposite change is: not absurd, so that it counts at the clip norm."""

RULES = {
    "mean": [],
    "median": ["server.rule=median"],
    "trimmed_mean": ["server.rule=trimmed_mean"],
    "krum": ["server.rule=krum"],
    "mean, no limits": ["server.clip_norm=null", "server.max_weight=null"],
}

Change = Callable[[Tree], Mapping[str, Any]]


def _changed(change: Change, update: ClientUpdate) -> ClientUpdate:
    """The update with some sums replaced; None leaves one out."""
    new = change(update.sums)
    kept = {name: leaf for name, leaf in update.sums.items() if name not in new}
    return replace(update, sums=kept | {name: torch.as_tensor(leaf) for name, leaf in new.items() if leaf is not None})


def _deltas(sums: Tree, factor: float) -> Tree:
    return {name: leaf * factor for name, leaf in sums.items() if name.startswith("delta.")}


def _first(sums: Tree) -> str:
    return next(name for name in sums if name.startswith("delta."))


def _opposite(sums: Tree) -> Mapping[str, Any]:
    """As long and heavy as is accepted: an opposite change, and a claim of weight until the largest is announced."""
    heavier = 1.0 if EXCESS in sums else WEIGHT / max(float(sums["weight"]), 1.0)
    loss = {name: leaf * heavier for name, leaf in sums.items() if name.startswith("loss.")}
    return {**_deltas(sums, -LONG * heavier), **loss, "weight": sums["weight"] * heavier}


def _extreme(sums: Tree) -> Mapping[str, Any]:
    """Every statistic at the greatest value that is accepted."""
    most = {name: 1e6 * sums["weight"] for name in sums if name.startswith("loss.")}
    first = torch.nn.functional.one_hot(torch.tensor(0), len(sums["responsibility"])).float()
    return most | {"spread": 1e12, "responsibility": first} | ({EXCESS: 1.0} if EXCESS in sums else {})


LIES: dict[str, Callable[[ClientUpdate], ClientUpdate]] = {
    "weight 0, change 1e6": partial(
        _changed, lambda sums: {name: leaf * 0 + 1e6 for name, leaf in _deltas(sums, 1).items()} | {"weight": 0.0}
    ),
    "weight 1e9": partial(_changed, lambda sums: {**_deltas(sums, -1e9), "weight": 1e9}),
    "negative weight": partial(_changed, lambda sums: {"weight": -sums["weight"]}),
    "a name missing": partial(_changed, lambda sums: {_first(sums): None}),
    "a name too many": partial(_changed, lambda sums: {"delta.more": sums[_first(sums)]}),
    "another shape": partial(_changed, lambda sums: {_first(sums): sums[_first(sums)][..., :-1]}),
    "another type": partial(_changed, lambda sums: {_first(sums): sums[_first(sums)].double()}),
    "a posterior of another length": lambda update: replace(
        update, own={name: torch.cat([leaf, leaf]) for name, leaf in update.own.items()}
    ),
    "statistics and posterior at their bounds": lambda update: replace(
        _changed(_extreme, update), own={name: leaf * 0 + 30.0 for name, leaf in update.own.items()}
    ),
    "a change 1e6 times as long": partial(_changed, lambda sums: _deltas(sums, 1e6)),
    "opposite within the limits": partial(_changed, _opposite),
}


def honest_accuracy(attack: tuple[RunConfig, float, str]) -> tuple[float, float]:
    """Mean test accuracy of the honest clients, and the share of the liars' updates that were rejected.

    A training that the liars make diverge is scored with the last weights that were finite numbers; stderr says so.

    Args:
        attack: The configuration, the share of liars, and their lie or ``NOBODY``.
    """
    config, share, lie = attack
    prepared = prepare(config)
    federation = prepared.federation
    ids = list(federation.client_ids)
    order = numpy_generator(config.seed, "liars").permutation(len(ids))
    liars = frozenset(ids[row] for row in order[: round(share * len(ids))])
    lying = liars if lie != NOBODY else frozenset[str]()

    def leaves(update: ClientUpdate, round_: int, client: str) -> ClientUpdate:
        return LIES[lie](update) if client in lying else update

    algorithm = make(config.method, config.method_config)
    state, sent, rejected = start(algorithm, federation, config.seed), 0, 0
    try:
        for reached, line in rounds(algorithm, federation, config.engine, config.seed, state, transform=leaves):
            state = reached
            sent, rejected = sent + len(lying & set(line["cohort"])), rejected + len(lying & set(line["rejected"]))
    except TrainingError as error:
        say(f"seed {config.seed}, {lie}: {error}")
    selector = algorithm.selector(state.server)
    honest = [client for client in federation.partition.seen if client.client_id not in liars]
    posterior = infer_clients(selector, federation, honest)
    scores = score_clients(selector, federation, honest, posterior, method=config.method, seed=config.seed)
    return float(np.mean([score.accuracy for score in scores])), rejected / max(sent, 1)


def row(rule: str, lie: str, found: np.ndarray, usual: np.ndarray, rejected: float) -> dict[str, Any]:
    """Mean accuracy, and its difference to the training in which nobody lies, with a 95% interval over seeds."""
    apart, half = 100 * (found - usual), float("nan")
    if len(apart) > 1:
        half = t_quantile(len(apart) - 1, 0.025) * float(apart.std(ddof=1)) / len(apart) ** 0.5
    middle = float(apart.mean())
    return {
        "rule": rule,
        "lie": lie,
        "accuracy": round(float(found.mean()), 4),
        "points": round(middle, 2),
        "ci95": [round(middle - half, 2), round(middle + half, 2)],
        "rejected": round(rejected, 3),
    }


def main() -> None:
    """Every rule with every lie, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--method", default="fedvpa_gp")
    parser.add_argument("--lies", nargs="*", choices=list(LIES), default=list(LIES))
    options = parser.parse_args()
    base = ["data.population=two-groups", "engine.workers=1", f"server.rounds={options.rounds}"]
    attacks = {
        (rule, lie, seed): (
            read_config(None, [*base, f"method={options.method}", *change])
            .with_clients(options.clients)
            .with_seed(seed),
            options.share,
            lie,
        )
        for rule, change in RULES.items()
        for lie in (NOBODY, *options.lies)
        for seed in range(options.seeds)
    }
    found = dict(zip(attacks, run_all(honest_accuracy, list(attacks.values()), options.jobs), strict=True))
    rows = []
    for rule in RULES:
        usual = np.array([found[rule, NOBODY, seed][0] for seed in range(options.seeds)])
        for lie in (NOBODY, *options.lies):
            mine = [found[rule, lie, seed] for seed in range(options.seeds)]
            rejected = float(np.mean([share for _, share in mine]))
            rows.append(row(rule, lie, np.array([accuracy for accuracy, _ in mine]), usual, rejected))
    print(json.dumps({"machine": machine_facts(), "settings": vars(options), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
