"""Progress on stderr: bars on a terminal, plain lines elsewhere, so that stdout stays for results."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")

PLAIN_INTERVAL_SECONDS = 5.0

_shown: list[Progress] = []


def speaks() -> bool:
    """Whether this process tells the user anything but errors: of several that ``torchrun`` started, the first."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """Print one line to stderr."""
    if speaks():
        print(message, file=sys.stderr, flush=True)


def track(items: Iterable[Item], what: str, total: int, *, unit: str = "it", weight: int = 1) -> Iterator[Item]:
    """Yield ``items`` and report how many are done, the rate and the time left.

    Args:
        items: What to iterate over.
        what: The name of the work.
        total: The number of items that will be yielded.
        unit: What ``weight`` counts, for the rate.
        weight: How many units one item is worth.
    """
    if speaks() and sys.stderr.isatty():
        with _bar(what, total) as (bars, task):
            began = time.monotonic()
            for done, item in enumerate(items, start=1):
                yield item
                bars.update(task, advance=1, rate=_rate(done * weight, began, unit))
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL_SECONDS or (done == total and last > start):
            left = (now - start) / done * (total - done)
            say(f"{what}: {done}/{total}, {_rate(done * weight, start, unit)}, {left:.0f} s left")
            last = now


@contextmanager
def _bar(what: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
    """A bar; work inside other work gets a bar below that one's, which leaves with it. A terminal shows one display."""
    if _shown:
        task = _shown[0].add_task(what, total=total, rate="")
        try:
            yield _shown[0], task
        finally:
            _shown[0].remove_task(task)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        _shown.append(bars)
        try:
            yield bars, bars.add_task(what, total=total, rate="")
        finally:
            _shown.pop()


def _rate(units: int, start: float, unit: str) -> str:
    return f"{units / max(time.monotonic() - start, 1e-9):.1f} {unit}/s"
