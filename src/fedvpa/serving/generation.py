"""An answer in the making: the engine puts pieces in, a thread or a coroutine takes them out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator

from fedvpa.core.errors import FedvpaError
from fedvpa.serving.requests import GenerationRequest, Piece


class Generation:
    """An answer in the making, for one reader: ``for piece in …`` in a thread or ``async for piece in …``.

    Pieces that wait for the reader come as one. A reader that leaves the loop early cancels the answer.

    Args:
        request: What was asked.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request
        self._lock = threading.Lock()
        self._piece: Piece | None = None
        self._error: FedvpaError | None = None
        self._done = False
        self._cancelled = False
        self._wake: Callable[[], object] | None = None

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._cancelled

    def cancel(self) -> None:
        """Stop: the engine takes the row out at its next step, and the reader's loop ends."""
        with self._lock:
            self._cancelled = self._done = True
        self._woken()

    def put(self, piece: Piece) -> None:
        """The engine's: a further piece; one with ``finish`` is the last."""
        with self._lock:
            self._piece = piece if self._piece is None else self._piece + piece
            self._done = self._done or piece.finish is not None
        self._woken()

    def fail(self, error: FedvpaError) -> None:
        """The engine's: raise this to the reader, behind the pieces that are there."""
        with self._lock:
            if not self._done:
                self._error, self._done = error, True
        self._woken()

    def __iter__(self) -> Iterator[Piece]:
        """The pieces.

        Raises:
            FedvpaError: What went wrong in the engine.
        """
        ready = threading.Event()
        try:
            while True:
                ready.clear()
                piece, done = self._take(ready.set)
                if piece is not None:
                    yield piece
                elif done:
                    return
                else:
                    ready.wait()
        finally:
            self._left()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """The pieces, without blocking the event loop.

        Raises:
            FedvpaError: What went wrong in the engine.
        """
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        try:
            while True:
                ready.clear()
                piece, done = self._take(lambda: loop.call_soon_threadsafe(ready.set))
                if piece is not None:
                    yield piece
                elif done:
                    return
                else:
                    await ready.wait()
        finally:
            self._left()

    def _take(self, wake: Callable[[], object]) -> tuple[Piece | None, bool]:
        """What is there, and whether nothing follows; ``wake`` is called once if there is nothing yet."""
        with self._lock:
            piece, self._piece = self._piece, None
            if self._cancelled:
                return None, True
            if piece is None and self._error is not None:
                raise self._error
            self._wake = wake if piece is None and not self._done else None
            return piece, self._done

    def _woken(self) -> None:
        with self._lock:
            wake, self._wake = self._wake, None
        if wake is None:
            return
        try:
            wake()
        except RuntimeError:  # the reader's event loop is closed: nobody reads any more
            self._cancelled = self._done = True

    def _left(self) -> None:
        """The reader's loop is over: nothing is there to read, or nobody who reads it."""
        with self._lock:
            self._cancelled = self._cancelled or not self._done
            self._done = True
