"""A small configuration that every test of methods starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fedvpa.algorithms.base import Algorithm, ClientUpdate, CohortUpdate
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.server.limits import Guard
from fedvpa.algorithms.server.robust import aggregate
from fedvpa.engines import vectorised
from fedvpa.engines.federation import Federation
from fedvpa.engines.runner import CohortTask, alone, one_by_one, unchanged
from fedvpa.engines.training import start

SMALL: dict[str, Any] = {
    "selector": {"latent": 5, "head_scale": 1.0, "encoder": {"pair_widths": [7]}},
    "local": {"steps": 3, "folds": 3},
    "server": {"rounds": 5, "average_tail": 0.4},
    "variational": {"warmup": 0.2},
}


def config(**sections: dict[str, Any]) -> MethodConfig:
    """``SMALL`` with some keys changed."""
    merged = {name: {**SMALL.get(name, {}), **sections.get(name, {})} for name in {*SMALL, *sections}}
    return MethodConfig.parse(merged)


def parts_of(names: Sequence[str], update: ClientUpdate) -> list[CohortUpdate]:
    """A stacked update as cohorts of one."""
    return [alone(name, mine) for name, mine in zip(names, one_by_one(names, update), strict=True)]


def replay(algorithm: Algorithm[Any, Any], federation: Federation, seed: int, lines: list[dict[str, Any]]) -> Any:
    """What one machine computes for the cohorts and drop-outs that a history lists."""
    rules, guard = algorithm.config.server, Guard()
    server, private = start(algorithm, federation, seed).server, {}
    for line in lines:
        cohort, seen = line["cohort"], [name for name in line["cohort"] if name not in line["dropped"]]
        sent = algorithm.broadcast(server, cohort)
        sent = replace(sent, shared=sent.shared | guard.announced(rules, algorithm.expected(server)))
        task = CohortTask(algorithm, sent, federation, cohort, seen, private, seed, unchanged)
        parts, kept = vectorised.run_cohort(task)
        found = aggregate(parts, algorithm.expected(server), guard, rules)
        assert sorted(found.rejected) == line["rejected"]
        server, _ = algorithm.server_update(server, found.update)
        guard = found.guard
        private = {**private, **kept}
    return server
