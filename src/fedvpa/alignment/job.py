"""What ``align`` trains: a policy that comes about step by step, and can be stopped and gone on with.

Two kinds: :class:`~fedvpa.alignment.dpo_job.DPOJob`, by a run's selector, and
:class:`~fedvpa.alignment.federated_job.FederatedJob`, whose clients train it themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from fedvpa.core.loop import Job, run_in_memory
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
        say(f"COLLAPSE: {job.title}: no look since step 0 was admissible, so the base is kept: {notes['collapsed']}")
    return policy, notes
