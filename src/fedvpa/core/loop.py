"""The resumable loop of every long training: a line of history after each step, checkpoints, signals.

A job yields what each step did. The loop writes it to the history, saves a checkpoint when one is due, and after a
signal saves one and stops. Going on from a checkpoint equals never having stopped: that is the job's promise; the
loop only makes sure that history and checkpoint agree.
"""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from fedvpa.core.errors import TrainingError
from fedvpa.core.files import storing, write_text
from fedvpa.core.processes import current
from fedvpa.core.progress import track
from fedvpa.core.signals import Interrupted, interrupting, stopping


class Job(Protocol):
    """Something that is trained step by step."""

    @property
    def title(self) -> str:
        """What progress calls it."""

    @property
    def unit(self) -> str:
        """What it counts: ``step`` or ``round``."""

    @property
    def total(self) -> int:
        """How many of them."""

    @property
    def done(self) -> int:
        """How many are behind it."""

    @property
    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is due now."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files; of several that train together, one does."""

    def run(self) -> Generator[dict[str, Any], None, None]:
        """Go on to the end; yields what each step did, with its ``seconds``."""


def run_job(job: Job, history: Path, save: Callable[[], None], resume_command: str) -> float:
    """Run a job to its end.

    Args:
        job: What to train, at its start or as a checkpoint left it.
        history: JSON lines, one a step; holds the lines of the steps behind the job.
        save: Writes a checkpoint of the job as it is now.
        resume_command: What a user types to go on.

    Returns:
        The wall-clock seconds of the steps that were run.

    Raises:
        Interrupted: After SIGINT or SIGTERM; a checkpoint was saved.
        StorageError: If the history or a checkpoint cannot be written; the files before them are whole.
        TrainingError: If a step gives a number that is not finite; nothing of that step was written.
    """
    seconds, steps, team = 0.0, job.run(), current()
    go_on = f"Make room, then go on from the last checkpoint with: {resume_command}"
    with (
        interrupting(f"stopped at once; go on from the last checkpoint with: {resume_command}"),
        closing(steps),
        stopping(f"finishing the {job.unit}; once more to stop at once") as stopped,
        history.open("a", encoding="utf-8") as log,
    ):
        for line in track(steps, job.title, job.total - job.done, unit=f"{job.unit}s"):
            check_finite(line, f"{job.title}: {job.unit} {job.done}")
            seconds += line["seconds"]
            number = team.most(stopped())  # whichever process a signal reaches, all stop after the same step
            if job.is_main:
                with storing(history, fix=go_on):
                    log.write(json.dumps(line, allow_nan=False) + "\n")
                    log.flush()
                    if number or job.checkpoint_due:
                        os.fsync(log.fileno())
                        save()
            if number:
                team.wait()  # a process that ends makes the launcher end the others, who may be writing
                raise Interrupted(
                    f"{signal.Signals(number).name}: stopped after {job.unit} {job.done} of {job.total}; "
                    f"go on with: {resume_command}",
                    number,
                )
    if job.is_main:
        with storing(history, fix=go_on):
            save()
    return seconds


def run_in_memory(job: Job, history: Path | None = None) -> None:
    """Run a job to its end without checkpoints.

    Args:
        job: What to train, at its start.
        history: Where the lines of all steps are kept, once the last one is done; None to keep none.

    Raises:
        TrainingError: If a step gives a number that is not finite.
    """
    lines = []
    for line in track(job.run(), job.title, job.total, unit=f"{job.unit}s"):
        check_finite(line, f"{job.title}: {job.unit} {job.done}")
        lines.append(json.dumps(line, allow_nan=False) + "\n")
    if history is not None and job.is_main:
        write_text(history, "".join(lines))


def check_finite(line: Mapping[str, Any], what: str) -> None:
    """Refuse a line of history with a number that is NaN or infinite: what trains has diverged, and JSON has none.

    Args:
        line: What a step did.
        what: The step, for the message.

    Raises:
        TrainingError: For the first such number.
    """
    for name, value in _numbers(line):
        if not math.isfinite(value):
            raise TrainingError(
                f"{what}: {name} is {value}: the training has diverged. Lower its learning rates: local.head_lr and "
                "local.encoder_lr of train, policy.lr and policy.conditioner_lr of align."
            )


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The dotted names and values of all floats in a line."""
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner, name)
