"""``fedvpa train --dry-run``: what the pairs hold and how they would be dealt, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedvpa.data.report import DataReport
from fedvpa.data.splits import HeldOut
from fedvpa.data.survey import Survey

if TYPE_CHECKING:
    from fedvpa.runs.config import RunConfig


@dataclass(frozen=True)
class DryRun:
    """What a run would start from.

    Attributes:
        survey: What the pairs hold, and what each unit of hold-out leaves.
        clients: How many clients would train.
        unseen: How many would not.
        held_out: What tests.
        report: What is left out, with reasons and first rows. What a language model's limits cut is not known yet.
        problem: Why the run would be refused; empty if it would not. The others are then empty but for ``survey``.
    """

    survey: Survey
    clients: int = 0
    unseen: int = 0
    held_out: HeldOut | None = None
    report: DataReport = field(default_factory=DataReport)
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "survey": self.survey.to_dict(),
            "clients": self.clients,
            "unseen": self.unseen,
            "held_out": None if self.held_out is None else self.held_out.to_dict(),
            "data": self.report.to_dict(),
            "problem": self.problem or None,
        }

    def __str__(self) -> str:
        if self.problem:
            return f"{self.survey}\nthis run would be refused: {self.problem}"
        dealt = f"this run: {self.clients:,} clients train, {self.unseen:,} do not; {self.held_out}"
        return "\n".join([str(self.survey), dealt, *self.report.lines()])


def dry_run(config: RunConfig) -> DryRun:
    """Read the pairs and deal them to clients, without a language model; nothing is written.

    Args:
        config: The run.

    Returns:
        What it would start from, or why it would be refused.

    Raises:
        InputError: If the pairs cannot be read.
    """
    from fedvpa.core.errors import InputError
    from fedvpa.data.load import load
    from fedvpa.data.partition import partition
    from fedvpa.data.survey import survey
    from fedvpa.data.unused import note_unused

    config.data.check_paths()
    table = load(config.resolved_data())
    found = survey(table, config.partition, config.seed)
    try:
        clients = partition(table, config.partition, config.seed)
        held_out = clients.held_out(table)
    except InputError as error:
        return DryRun(found, problem=str(error))
    report = note_unused(table, clients, config.partition).report
    return DryRun(found, len(clients.seen), len(clients.unseen), held_out, report)
