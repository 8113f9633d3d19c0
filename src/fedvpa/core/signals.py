"""Signals: a first Ctrl-C or SIGTERM is remembered, so that a step ends and a checkpoint is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fedvpa.core.errors import FedvpaError
from fedvpa.core.progress import say


class Interrupted(FedvpaError):
    """The run was stopped by a signal, after saving a checkpoint. The exit code is the shell's: 128 + the signal.

    Args:
        message: What was done and how to go on.
        number: The signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@contextmanager
def stopping(unit: str = "round") -> Iterator[Callable[[], int]]:
    """While inside, a first SIGINT or SIGTERM is remembered; a second one acts at once, as it would outside.

    Args:
        unit: What is finished before the stop, for the message.

    Yields a function that gives the number of the signal, or 0. Python lets only the main thread handle signals; in
    another one they keep their meaning.
    """
    caught: list[int] = []
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        restore()
        say(f"finishing the {unit}; once more to stop at once")

    if threading.current_thread() is threading.main_thread():
        previous |= {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: caught[0] if caught else 0
    finally:
        restore()
