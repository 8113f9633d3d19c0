"""How many requests a server has, and its last minutes: those that run are finished, and new ones are turned away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Lifecycle:
    """The requests of one server. All of it happens in the server's event loop."""

    def __init__(self) -> None:
        self.active = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """While inside, there is one more request."""
        self.active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.active -= 1
            if not self.active:
                self._idle.set()

    async def drain(self, seconds: float) -> int:
        """Turn new requests away and wait for the others.

        Args:
            seconds: How long.

        Returns:
            How many are not finished then.
        """
        self.draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return self.active
        return 0
