"""Signals: a first Ctrl-C or SIGTERM is remembered until a step has ended, or ends the work at once, in one message."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fedvpa.core.errors import FedvpaError
from fedvpa.core.progress import say
from fedvpa.core.rendezvous import launched

SIGNALS = (signal.SIGINT, signal.SIGTERM)

ECHO_SECONDS = 2.0
"""A launcher passes on a signal that a terminal has sent to all processes already. What comes to one of several
processes so soon after a first signal is the same one. Chosen by us: less than a user takes to press Ctrl-C again."""

_heard = -math.inf


class Interrupted(FedvpaError):
    """The work was stopped by a signal; nothing that was finished is lost. The exit code is the shell's: 128 + it.

    Args:
        message: What was done and how to go on.
        number: The signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@contextmanager
def stopping(announcement: str = "finishing the round; once more to stop at once") -> Iterator[Callable[[], int]]:
    """While inside, a first SIGINT or SIGTERM is remembered; a second one acts at once, as it would outside.

    Yields a function that gives the number of the signal, or 0. Python lets only the main thread handle signals; in
    another one they keep their meaning.

    Args:
        announcement: What the user is told at the first signal.
    """
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if _is_echo():
            return
        if caught:  # of several processes, which cannot give the handlers back before the launcher's echo
            restore()
            signal.raise_signal(number)
            return
        caught.append(number)
        if launched():
            _hear()
        else:
            restore()
        say(announcement)

    with _handled_by(remember) as restore:
        yield lambda: caught[0] if caught else 0


@contextmanager
def interrupting(message: str) -> Iterator[None]:
    """While inside, SIGINT and SIGTERM end the work at once.

    The work sees a ``KeyboardInterrupt``, for SIGTERM too, so that its ``finally`` blocks run and no handler of
    errors takes it for one.

    Args:
        message: What is kept and how to go on.

    Raises:
        Interrupted: With the signal's name before the message.
    """
    caught: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _is_echo():
            return
        caught.append(number)
        _hear()
        raise KeyboardInterrupt

    with _handled_by(interrupt):
        try:
            yield
        except KeyboardInterrupt:
            if not caught:  # raised by something else than a signal that was handled here
                raise
            raise Interrupted(f"{signal.Signals(caught[0]).name}: {message}", caught[0]) from None


@contextmanager
def ignoring() -> Iterator[None]:
    """While inside, SIGINT and SIGTERM do nothing."""
    with _handled_by(lambda number, frame: None):
        yield


def _hear() -> None:
    global _heard
    _heard = time.monotonic()


def _is_echo() -> bool:
    return launched() and time.monotonic() - _heard < ECHO_SECONDS


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[Callable[[], None]]:
    """Let the handler have SIGINT and SIGTERM; yields a function that gives them back before the end."""
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, before in previous.items():
            # After a signal a process that was launched ends; its launcher's echo must not end it in another way.
            signal.signal(number, signal.SIG_IGN if _is_echo() else before)

    if threading.current_thread() is threading.main_thread():
        previous |= {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield restore
    finally:
        restore()
