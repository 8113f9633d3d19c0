"""The expected table of the engines: a few numbers per method after four rounds with faults.

Unequal clients, one with a single pair, one with none, drop-outs. After a change that is meant to change results:

    python tests/engines/expected.py > tests/engines/expected.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conftest import make_federation
from fedvpa.algorithms.base import SelectorAlgorithm
from fedvpa.algorithms.registry import METHODS, make
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import TrainState, rounds, start
from tests_shared import config

SEED, ROUNDS = 13, 4


def summary(algorithm: SelectorAlgorithm[Any], state: TrainState) -> dict[str, float]:
    """Norm and signed sum of every weight, the prior, and what is kept of moments, reports and private logits."""
    server = state.server
    found = {}
    for name, leaf in sorted(server.final.items()):
        signs = torch.cos(torch.arange(leaf.numel(), dtype=torch.float64))
        found[f"{name}: norm"] = float(leaf.double().norm())
        found[f"{name}: sum"] = float((leaf.double().flatten() * signs).sum())
    found |= {f"log_prior[{m}]": float(value) for m, value in enumerate(algorithm.selector(server).log_prior)}
    for name, leaf in sorted(getattr(server, "moments", {}).items()):
        found[f"moments, {name}: norm"] = float(leaf.double().norm())
    for name, own in sorted(getattr(server, "reports", {}).items()):
        first, second = own.values()
        found[f"report of {name}"] = float(first.double().norm() + second.double().sum())
    for name, kept in sorted(state.private.items()):
        found[f"private logits of {name}"] = float(kept["logits"].double().sum()) if "logits" in kept else 0.0
    return found


def run(method: str, engine: str) -> dict[str, float]:
    """Train and summarise."""
    server = {"rounds": ROUNDS, "clip_norm": None, "max_weight": None}
    federation, algorithm = make_federation(), make(method, config(server=server, selector={"rotation": "none"}))
    state = start(algorithm, federation, SEED)
    setting = EngineConfig(name=engine, cohort=5, dropout=0.3, workers=1)
    for reached, _ in rounds(algorithm, federation, setting, SEED, state):
        state = reached
    return summary(algorithm, state)


if __name__ == "__main__":
    torch.set_num_threads(1)
    table = {method: {key: round(value, 6) for key, value in run(method, "loop").items()} for method in METHODS.names()}
    print(json.dumps(table, indent=1))
