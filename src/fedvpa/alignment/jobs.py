"""What ``align`` trains: a policy that comes about step by step, and can be stopped and gone on with.

Two kinds: DPO by a run's selector (:class:`SelectorWork`), and FedDPO, which has no selector (:class:`FedDPOWork`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Protocol

from accelerate import PartialState
from torch import Tensor

from fedvpa.algorithms.feddpo import METHOD as FEDDPO
from fedvpa.algorithms.feddpo import FedDPOState, client_examples, settle, train_feddpo
from fedvpa.alignment.setup import Problem
from fedvpa.alignment.stage1 import ONE
from fedvpa.alignment.stopping import Kept, Look
from fedvpa.core.errors import RunError
from fedvpa.core.progress import track
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.data.schema import Pair
from fedvpa.engines.federation import Split
from fedvpa.engines.sampling import draw_cohort, identities
from fedvpa.policy.adapters import restore, snapshot
from fedvpa.policy.files import new_policy
from fedvpa.policy.model import Policy
from fedvpa.policy.rows import say_cuts
from fedvpa.runs.config import RunConfig
from fedvpa.runs.prepare import Prepared


class Work(Protocol):
    """The training of one policy."""

    @property
    def config(self) -> RunConfig:
        """Of the run, with stage 2 as it is trained."""

    @property
    def prepared(self) -> Prepared:
        """The data of the run."""

    @property
    def method(self) -> str:
        """Its method."""

    @property
    def name(self) -> str:
        """Of the policy: a true group's, or ``ONE``."""

    @property
    def unit(self) -> Literal["step", "round"]:
        """What it counts."""

    @property
    def total(self) -> int:
        """How many of them."""

    @property
    def done(self) -> int:
        """How many are behind it."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and files."""

    @property
    def due(self) -> bool:
        """Whether a checkpoint is due now."""

    def lines(self) -> Generator[dict[str, Any], None, None]:
        """Go on to the end; what each step or round did, with its ``seconds``."""

    def state(self) -> tuple[Tree, dict[str, str]]:
        """All that is needed to go on bit for bit: tensors, and notes."""

    def load_state(self, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
        """Go on from :meth:`state`."""

    def finish(self) -> tuple[Policy, dict[str, Any]]:
        """The policy to use, and what ``metrics.json`` says about it."""


def title(work: Work) -> str:
    """For progress."""
    return f"{work.method}{f' ({work.name})' if work.name else ''}: DPO"


def in_memory(work: Work) -> tuple[Policy, dict[str, Any]]:
    """Train without a run directory."""
    for _ in track(work.lines(), title(work), work.total, unit=f"{work.unit}s"):
        pass
    return work.finish()


def pairs_of(prepared: Prepared, split: Split) -> dict[str, list[Pair]]:
    """Seen client → its labelled pairs of a split, for methods whose clients read text."""
    table, clients = prepared.table, prepared.federation.partition.seen
    return {client.client_id: [table.pairs[int(row)] for row in getattr(client, split)] for client in clients}


def cohorts(names: Sequence[str], size: int, seed: int) -> Callable[[int], list[str]]:
    """Round → the clients that it asks."""
    hashed = identities(names)
    return lambda round_: draw_cohort(names, hashed, size, seed, round_)


class SelectorWork:
    """DPO on pairs that the run's selector ordered; it ends with the weights of the step that validation chose.

    Args:
        problem: What to train.
        method: What it is called, if not by the run's method.
        folder: Where the samples of refreshes are kept, if it is to be resumable.
    """

    unit: Literal["step"] = "step"

    def __init__(self, problem: Problem, method: str | None = None, folder: Path | None = None) -> None:
        self._problem, self._folder = problem, folder
        self._kept: Kept | None = None
        self.config, self.prepared = problem.stage.config, problem.stage.prepared
        self.method, self.name = method or self.config.method, problem.name

    @property
    def total(self) -> int:
        """Optimiser steps."""
        return self.config.policy.steps

    @property
    def done(self) -> int:
        """Optimiser steps behind it."""
        return self._problem.trainer.step

    @property
    def is_main(self) -> bool:
        """See :class:`Work`."""
        return self._problem.trainer.is_main

    @property
    def due(self) -> bool:
        """Every so many steps."""
        every = self.config.policy.checkpoint_every
        return bool(every) and self.done % every == 0

    def lines(self) -> Generator[dict[str, Any], None, None]:
        """See :class:`Work`."""
        for progress in self._problem.run(self._kept, self._folder):
            self._kept = progress.kept
            yield progress.line

    def state(self) -> tuple[Tree, dict[str, str]]:
        """Weights, optimiser, and the weights of the best look so far."""
        tensors = prefixed("weights", snapshot(self._problem.policy))
        tensors |= prefixed("optimiser", self._problem.trainer.state())
        if self._kept is None:
            return tensors, {}
        notes = {"look": json.dumps(asdict(self._kept.look)), "best": repr(self._kept.best)}
        return tensors | prefixed("kept", self._kept.weights), notes

    def load_state(self, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
        """See :class:`Work`."""
        restore(self._problem.policy, below("weights", tensors))
        self._problem.trainer.load_state(below("optimiser", tensors))
        if "look" in notes:
            look = Look(**json.loads(notes["look"]))
            self._kept = Kept(look, below("kept", tensors), float(notes["best"]))

    def finish(self) -> tuple[Policy, dict[str, Any]]:
        """The policy with the chosen weights; the pairs' counts and the chosen look."""
        if self._kept is None:
            raise RunError("The policy was never looked at on validation prompts.", fix="Raise policy.steps.")
        policy = self._problem.policy
        restore(policy, dict(self._kept.weights))
        return policy.eval(), {"pairs": dict(self._problem.labelled.counts), "stopped": asdict(self._kept.look)}


class FedDPOWork:
    """FedDPO on the training pairs of the seen clients; the policy of its last round.

    It has no selector that could choose a stopping step on public prompts, so it runs to the end of its schedule.
    """

    method, name = FEDDPO, ONE
    unit: Literal["round"] = "round"

    def __init__(self, config: RunConfig, prepared: Prepared) -> None:
        self.config, self.prepared = config, prepared
        self._policy = new_policy(
            config.policy, config.features.model, None, config.seed, device=config.features.device
        )
        self._state = FedDPOState(snapshot(self._policy))
        pairs = pairs_of(prepared, "train")
        everything = [pair for own in pairs.values() for pair in own]
        say_cuts(self._policy.words.pairs(everything)[1], f"{len(everything)} training pairs")
        self._examples = {name: client_examples(self._policy, own) for name, own in pairs.items()}
        self._told: dict[str, Any] = {"uplink_bytes": 0, "rejected": 0}

    @property
    def total(self) -> int:
        """Rounds."""
        return self.config.policy.feddpo.rounds

    @property
    def done(self) -> int:
        """Rounds behind it."""
        return self._state.round

    @property
    def is_main(self) -> bool:
        """See :class:`Work`."""
        return bool(PartialState().is_main_process)

    @property
    def due(self) -> bool:
        """After every round, unless checkpoints are off: a round is long."""
        return bool(self.config.policy.checkpoint_every)

    def lines(self) -> Generator[dict[str, Any], None, None]:
        """See :class:`Work`."""
        seed, rules = self.config.seed, self.config.policy
        todo = train_feddpo(
            self._policy,
            self._examples,
            rules,
            seed,
            cohorts(list(self._examples), rules.feddpo.cohort, seed),
            self._state,
        )
        for state, told in todo:
            self._state = state
            rejected = self._told["rejected"] + len(told.rejected)
            self._told = {"uplink_bytes": told.uplink_bytes, "rejected": rejected}
            yield asdict(told)

    def state(self) -> tuple[Tree, dict[str, str]]:
        """What the server knows; clients keep nothing from round to round."""
        return self._state.tensors(), {"told": json.dumps(self._told)}

    def load_state(self, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
        """See :class:`Work`."""
        self._state, self._told = FedDPOState.of(tensors), json.loads(notes["told"])

    def finish(self) -> tuple[Policy, dict[str, Any]]:
        """The policy of the last round; rounds, averaging, bytes that the last round sent, rejected updates."""
        settle(self._policy, self._state)
        averaging = self.config.policy.feddpo.averaging
        return self._policy.eval(), {"rounds": self._state.round, "averaging": averaging, **self._told}
