"""What ``align`` trains: a policy that comes about step by step, and can be stopped and gone on with.

Two kinds: :class:`~fedvpa.alignment.dpo_job.DPOJob`, by a run's selector, and
:class:`~fedvpa.alignment.federated_job.FederatedJob`, whose clients train it themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from fedvpa.core.errors import AlignmentError
from fedvpa.core.loop import Job, run_in_memory
from fedvpa.core.options import option
from fedvpa.core.progress import say
from fedvpa.core.tree import Tree
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.policy import Policy


class AlignmentJob(Job, Protocol):
    """The training of one policy."""

    @property
    def method(self) -> str:
        """Its method."""

    @property
    def name(self) -> str:
        """Of the policy: a true group's, or ``ONE``."""

    @property
    def settings(self) -> PolicyConfig:
        """What it is trained with."""

    @property
    def seed(self) -> int:
        """Names its random streams."""

    def state(self) -> tuple[Tree, dict[str, str]]:
        """All that is needed to go on bit for bit: tensors, and notes."""

    def load_state(self, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
        """Go on from :meth:`state`."""

    def finish(self) -> tuple[Policy, dict[str, Any]]:
        """The policy to use, and what ``metrics.json`` says about it."""


def title(method: str, name: str) -> str:
    """What progress calls the training of a policy."""
    return f"{method}{f' ({name})' if name else ''}: DPO"


def train_in_memory(job: AlignmentJob, history: Path | None = None) -> tuple[Policy, dict[str, Any]]:
    """Train a policy without checkpoints; see :meth:`AlignmentJob.finish`.

    Args:
        job: What to train.
        history: Where a line for each step or round is kept; None to keep none.
    """
    run_in_memory(job, history)
    policy, notes = job.finish()
    if notes.get("collapsed"):
        say(f"COLLAPSE: {job.title}: {collapse_of(notes)}: {notes['collapsed']}")
    return policy, notes


def check_collapse(policies: Mapping[str, Mapping[str, Any]], method: str, where: str) -> None:
    """Raise AlignmentError, once everything is written, if a policy lost its language.

    Args:
        policies: Name → what ``metrics.json`` says about it.
        method: What trained them.
        where: The run.
    """
    fallen = {name: notes for name, notes in policies.items() if notes.get("collapsed")}
    if not fallen:
        return
    why = "; ".join(f"{name or method}: {notes['collapsed']}" for name, notes in fallen.items())
    found = next(iter(fallen.values()))
    less = "Raise policy.beta or policy.sft_weight, lower policy.lr and policy.conditioner_lr"
    if "stopped" not in found:
        less = "Take fewer rounds or a lower learning rate (policy.lr, towards objectives firm.lr)"
    raise AlignmentError(
        f"the policy collapsed: {collapse_of(found)} ({why}).",
        fix=f"{less}, or allow more: policy.guard. Then align again with {option('overwrite', 'True')}.",
        where=where,
    )


def collapse_of(notes: Mapping[str, Any]) -> str:
    """What became of a policy that lost its language, in words: of one that clients trained, no other is there."""
    if "stopped" in notes:
        return "no look since step 0 was admissible, so that the base policy is kept"
    return "after its last round it has left the base's language; it is kept as its clients trained it"
