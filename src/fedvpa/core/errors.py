"""Errors that teach: what was given, why it cannot be, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import partial
from typing import Any


class FedvpaError(Exception):
    """Root of every error that fedvpa raises on purpose.

    Attributes:
        exit_code: What the command line exits with: 1, or 2 for wrong input.
    """

    exit_code: int = 1


class InputError(FedvpaError, ValueError):
    """The user gave something that cannot work.

    Args:
        problem: What was given and why it cannot be, in one sentence.
        fix: What to do about it.
        where: The place: a file, ``file:row``, a configuration key or a run directory.
    """

    exit_code = 2

    def __init__(self, problem: str, *, fix: str = "", where: str = "") -> None:
        self.problem, self.fix, self.where = problem, fix, where
        super().__init__(" ".join(part for part in (f"{where}: {problem}" if where else problem, fix) if part))


class JudgeError(FedvpaError, RuntimeError):
    """A judge gave no verdicts, or too few: its endpoint is down, or too many of its answers are missing.

    Args:
        problem: What happened, in one sentence.
        fix: What to do about it.
        where: The judge: the URL of an endpoint, or a model folder.
    """

    def __init__(self, problem: str, *, fix: str = "", where: str = "") -> None:
        self.problem, self.fix, self.where = problem, fix, where
        super().__init__(" ".join(part for part in (f"{where}: {problem}" if where else problem, fix) if part))


class TrainingError(FedvpaError, ArithmeticError):
    """A training that cannot go on: a loss or a reward is no finite number, or every update was rejected."""


class AlignmentError(FedvpaError, RuntimeError):
    """Stage 2 cannot give a policy that is worth having: its labels are no better than luck, or all of it collapsed.

    Args:
        problem: What was measured, in one sentence.
        fix: What would help.
        where: The run.
    """

    def __init__(self, problem: str, *, fix: str = "", where: str = "") -> None:
        self.problem, self.fix, self.where = problem, fix, where
        super().__init__(" ".join(part for part in (f"{where}: {problem}" if where else problem, fix) if part))


class StorageError(FedvpaError, OSError):
    """A file cannot be written: the disk is full, a quota or a limit is reached, or the place is read-only.

    Args:
        path: The file.
        reason: What the system says.
        free: How much room its disk has left, in bytes; None where that cannot be known.
        fix: How to go on.
    """

    def __init__(self, path: str, reason: str, *, free: int | None = None, fix: str = "") -> None:
        self.path, self.reason, self.free, self.fix = path, reason, free, fix
        room = "" if free is None else f" {free / 1e6:,.0f} MB are free on its disk."
        super().__init__(f"{path}: cannot be written: {reason}.{room}{f' {fix}' if fix else ''}")

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), free=self.free, fix=self.fix), (self.path, self.reason)


class DataError(InputError):
    """A file, a row or a partition of preference pairs that cannot be used."""


class ConfigError(InputError):
    """A configuration key or value that cannot be used."""


class ModelError(InputError):
    """A language model folder, or a feature cache, that cannot be used."""


class RunError(InputError):
    """A run directory that cannot be read, resumed or written."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the known word closest to ``name``, or lists the known ones."""
    words = sorted(known)
    close = difflib.get_close_matches(name, words, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(words)}."
