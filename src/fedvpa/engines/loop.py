"""The readable reference: one client after the other."""

from __future__ import annotations

from fedvpa.algorithms.server.robust import Part
from fedvpa.core.tree import Tree
from fedvpa.engines.runner import CohortResult, CohortTask, alone


def run_cohort(task: CohortTask) -> CohortResult:
    """One round of local training, client by client: a :class:`~fedvpa.engines.runner.CohortRunner`."""
    parts: list[Part] = []
    kept: dict[str, Tree] = {}
    for position, name in enumerate(task.cohort):
        if name in task.reporting:
            part, kept[name] = run_client(task, position, name)
            parts.append(part)
    return parts, kept


def run_client(task: CohortTask, position: int, name: str) -> tuple[Part, Tree]:
    """Local training of the client at ``position`` of the cohort: its update, and what it keeps."""
    algorithm, broadcast = task.algorithm, task.broadcast
    received, own = broadcast.client(position), task.private.get(name, {})
    private = algorithm.load_private(own, received)
    if algorithm.reads_groups:
        private |= {"group": task.holder.group_one_hot([name])[0]}
    draws = algorithm.draw(task.seed, broadcast, name, task.holder.size(name))
    update, after = algorithm.client_update(received, task.holder.held(name), private, draws)
    return Part((name,), alone(name, task.sent(update, received, name))), algorithm.store_private(own, after, received)
