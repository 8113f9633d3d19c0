"""What was really sent in a training, gathered by user: for an audit, which asks what it tells about them.

Stands between the rounds and the engine that runs a cohort, and reads what passes: the broadcast, and each client's
update as it leaves the client. Nothing is changed. What is kept of a user is the mean, over the rounds that it took
part in, of what was seen less what was seen of the whole cohort, so memory follows the number of users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedvpa.algorithms.server.posterior_exchange import component_keys
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree
from fedvpa.engines.runner import CohortResult, CohortRunner, CohortTask

Table = dict[str, NDArray[np.float64]]
"""Client id → what is seen of it, as one vector."""

BLOCKS = ("weights", "statistics", "own")
"""The blocks of an update: changes of weights, other sums, and what is not additive."""


@dataclass(repr=False)
class Mean:
    """A mean over rounds for each client."""

    total: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)

    __repr__ = short_repr

    def add(self, name: str, value: NDArray[np.float64]) -> None:
        """One more round of a client."""
        self.total[name] = self.total[name] + value if name in self.total else value
        self.count[name] = self.count.get(name, 0) + 1

    def table(self) -> Table:
        """The means."""
        return {name: total / self.count[name] for name, total in self.total.items()}


@dataclass(repr=False)
class Recorder:
    """A :class:`~fedvpa.engines.runner.CohortRunner` that writes down what another one is sent and sends.

    Attributes:
        run: What runs the cohorts.
        seed: Of the run: keys of the published exchange follow from it.
        updates: Block → the updates of each client, each less the mean of its cohort.
        cohorts: Round → who answered.
        sums: Round → the sums over these clients, as one vector.
        broadcasts: Round → what all were sent.
        shapes: Block → the tensors of the first update, which are followed from round to round.
    """

    run: CohortRunner
    seed: int
    updates: dict[str, Mean] = field(default_factory=dict)
    cohorts: dict[int, list[str]] = field(default_factory=dict)
    sums: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    broadcasts: dict[int, Tree] = field(default_factory=dict)
    shapes: dict[str, dict[str, torch.Size]] = field(default_factory=dict)

    __repr__ = short_repr

    def __call__(self, task: CohortTask) -> CohortResult:
        """Run a cohort and note what passed."""
        parts, kept = self.run(task)
        round_ = task.broadcast.round
        self.broadcasts[round_] = dict(task.broadcast.shared)
        names = [part.clients[0] for part in parts]
        if names:
            self.cohorts[round_] = names
            found = [self._blocks(part.update.sums, part.update.own.get(part.clients[0], {})) for part in parts]
            self.sums[round_] = np.sum([self._flat("sums", part.update.sums) for part in parts], axis=0)
            self._note(names, found)
        return parts, kept

    def _blocks(self, sums: Tree, own: Tree) -> dict[str, NDArray[np.float64]]:
        """The update of one client: its mean change, its other sums, what is its own."""
        weight = max(float(sums["weight"]), 1e-12)
        deltas = {name: leaf / weight for name, leaf in sums.items() if name.startswith("delta.")}
        rest = {name: leaf for name, leaf in sums.items() if not name.startswith("delta.")}
        return {name: self._flat(name, tree) for name, tree in zip(BLOCKS, (deltas, rest, own), strict=True)}

    def _flat(self, block: str, tree: Tree) -> NDArray[np.float64]:
        """The tensors that the first update had, as one vector; 0 for one that is not there."""
        shapes = self.shapes.setdefault(block, {name: leaf.shape for name, leaf in tree.items()})
        there = {name for name, shape in shapes.items() if name in tree and tree[name].shape == shape}
        return _vector({name: tree[name] if name in there else torch.zeros(shape) for name, shape in shapes.items()})

    def _note(self, names: Sequence[str], found: Sequence[Mapping[str, NDArray[np.float64]]]) -> None:
        for block in BLOCKS:
            rows = np.stack([one[block] for one in found])
            if rows.shape[1]:
                mean = self.updates.setdefault(block, Mean())
                for name, row in zip(names, rows - rows.mean(0), strict=True):
                    mean.add(name, row)

    def of_server(self) -> dict[str, Table]:
        """What a server sees that is sent each client's update by itself."""
        return {block: mean.table() for block, mean in self.updates.items()}

    def of_sums(self) -> dict[str, Table]:
        """What a server sees that is sent sums over cohorts, and knows the cohorts."""
        return {"sums": self._by_round(self.sums)}

    def of_participant(self, last: Tree) -> dict[str, Table]:
        """What one sees who is sent every broadcast and has found out who took part: how each round changed it.

        Args:
            last: What would be sent after the last round.
        """
        return {"changes": self._by_round(self.changes(last))}

    def changes(self, last: Tree) -> dict[int, NDArray[np.float64]]:
        """Round → how it changed the broadcast, as one vector; ``last`` as above."""
        told = self.broadcasts | {max(self.broadcasts, default=-1) + 1: last}
        names = [
            name
            for name, leaf in last.items()
            if leaf.is_floating_point() and all(name in one and one[name].shape == leaf.shape for one in told.values())
        ]
        flat = {round_: _vector({name: one[name] for name in names}) for round_, one in told.items()}
        return {round_: flat[round_ + 1] - flat[round_] for round_ in self.cohorts}

    def of_posteriors(self, client_ids: Sequence[str], last: Tree) -> dict[str, Table]:
        """The posteriors of the published exchange that one reads who is sent every broadcast; empty of other ones."""
        keys = dict(zip(component_keys(self.seed, client_ids).tolist(), client_ids, strict=True))
        found = Mean()
        for told in [*self.broadcasts.values(), last]:
            both = torch.cat([told["prior.means"], told["prior.log_vars"]], 1) if "prior.means" in told else None
            for row, key in enumerate(told["prior.keys"].tolist() if both is not None else []):
                if both is not None and key in keys:
                    found.add(keys[key], both[row].double().numpy())
        return {"posterior": found.table()} if found.total else {}

    def _by_round(self, values: Mapping[int, NDArray[np.float64]]) -> Table:
        """For each client the mean over its rounds, less the mean over all."""
        if not values:
            return {}
        middle, found = np.mean(list(values.values()), axis=0), Mean()
        for round_, value in values.items():
            for name in self.cohorts[round_]:
                found.add(name, value - middle)
        return found.table()


def _vector(tree: Mapping[str, Tensor]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *(tree[name].double().numpy().ravel() for name in sorted(tree))])
