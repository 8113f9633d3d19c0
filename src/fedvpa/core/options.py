"""How messages name an argument: as a keyword where the library was called, as a flag on the command line.

A column of the data is named by ``--map`` on the command line. In Python it is ``data.map`` of a configuration, or
``columns`` of a verb that reads a file of new pairs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

FLAG_NAMES = {"columns": "map"}
"""Arguments whose flag has another name."""

Speaker = Literal["configuration", "new pairs", "command line"]

VARIABLE = "FEDVPA_SPEAKS_OF_FLAGS"
"""Set while the command line runs, so that the processes that it starts speak as it does."""

_SPEAKER: ContextVar[Speaker] = ContextVar(
    "fedvpa_speaker", default="command line" if os.environ.get(VARIABLE) else "configuration"
)


@contextmanager
def flags() -> Iterator[None]:
    """Inside the block messages speak of flags; the command line holds it around every verb."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1"
    try:
        with _speaking("command line"):
            yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


@contextmanager
def new_pairs() -> Iterator[None]:
    """Inside the block the columns are those of a file that a verb was given, and not of the configuration's data."""
    with _speaking("command line" if _SPEAKER.get() == "command line" else "new pairs"):
        yield


def option(name: str, value: str | None = None) -> str:
    """An argument of a verb, as the caller writes it: ``group_column=COLUMN``, or ``--group-column COLUMN``.

    Args:
        name: The keyword in Python.
        value: What is given for it; None for the argument itself, ``True`` for a switch that is on.
    """
    if _SPEAKER.get() != "command line":
        return name if value is None else f"{name}={value}"
    flag = f"--{FLAG_NAMES.get(name, name).replace('_', '-')}"
    return flag if value in (None, "True") else f"{flag} {value}"


def column_option(ours: str, theirs: str = "COLUMN") -> str:
    """How a column is named: ``--map user_id=worker``, or one of the two ways of Python."""
    match _SPEAKER.get():
        case "command line":
            return f"--map {ours}={theirs}"
        case "new pairs":
            return f'columns={{"{ours}": "{theirs}"}}'
        case _:
            return f"data.map.{ours}={theirs}"


@contextmanager
def _speaking(speaker: Speaker) -> Iterator[None]:
    before = _SPEAKER.set(speaker)
    try:
        yield
    finally:
        _SPEAKER.reset(before)
