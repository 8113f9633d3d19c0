"""The server as a process: its socket, its signals, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from fedvpa.core.errors import ConfigError
from fedvpa.core.options import option
from fedvpa.core.progress import say
from fedvpa.serving.lifecycle import Lifecycle


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections, which wait until the server is ready.

    Args:
        host: An address or a name.
        port: 0 for one that is free.

    Raises:
        ConfigError: If the port is in use or not allowed, or the host is none of this machine.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"{option('host', host)} is no address of this machine ({error}).") from error
    found = socket.socket(family, kind, number)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier server may linger
        found.bind(address)
        found.listen(2048)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            fix = f"Choose another one, such as {option('port', str(port + 1))}, or end the program that has it."
            raise ConfigError(f"Port {port} of {host} is in use.", fix=fix) from error
        raise ConfigError(f"{host}:{port} cannot be listened to ({error.strerror}).") from error
    return found


def address_of(listening: socket.socket) -> str:
    """The URL of a server on this socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Runs an application until a signal comes, and then until its requests are answered.

    Args:
        app: The application.
        lifecycle: Of its state.
        drain_seconds: How long requests that run have left after the signal.
        ready: Called once, when requests are answered.
    """

    def __init__(
        self, app: FastAPI, lifecycle: Lifecycle, drain_seconds: float, ready: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                ws="none",
                log_config=None,
                log_level="warning",
                access_log=False,  # paths name profiles
                server_header=False,
                timeout_graceful_shutdown=1,  # they had theirs
            )
        )
        self.unfinished = 0
        self._lifecycle, self._seconds, self._ready = lifecycle, drain_seconds, ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Task[None] | None = None
        self._signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A first signal begins the end, a second one ends at once."""
        self._signals += 1
        if self._signals > 1:
            self.should_exit = self.force_exit = True
            return
        active = self._lifecycle.active
        waits = f"finishing {active} requests, for at most {self._seconds:g} s; once more to stop at once"
        say(f"{signal.Signals(sig).name}: {waits if active else 'stopping'}")
        self.end()

    def end(self) -> None:
        """Begin the end, from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._ending = self._ending or asyncio.ensure_future(self._end())

    async def _end(self) -> None:
        self.unfinished = await self._lifecycle.drain(self._seconds)
        self.should_exit = True
