"""``fedvpa serve``: a server that speaks OpenAI's API and follows its users' preferences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from fedvpa.core.errors import ConfigError
from fedvpa.core.options import option
from fedvpa.data.config import check_pairs_file
from fedvpa.runs.folder import RunFolder

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


@dataclass(frozen=True)
class Listening:
    """A server that is ready.

    Attributes:
        run: The run directory.
        address: Its URL.
        models: What can be asked for, profiles left out.
        keys: Whether a key is needed.
    """

    run: Path
    address: str
    models: Sequence[str]
    keys: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"run": str(self.run), "address": self.address, "models": list(self.models), "keys": self.keys}


@dataclass(frozen=True)
class ServeResult:
    """A server that has ended.

    Attributes:
        run: The run directory.
        unfinished: Requests that were cut off when it stopped.
    """

    run: Path
    unfinished: int


def serve(
    run: str | PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    profiles: str | PathLike[str] | None = None,
    pool: str | PathLike[str] | None = None,
    allow_z: bool = False,
    max_rows: int = 32,
    max_waiting: int = 128,
    max_body: int = 1_000_000,
    drain_seconds: float = 30.0,
    origins: Sequence[str] = (),
    overrides: Sequence[str] = (),
    ready: Callable[[Listening], None] = lambda listening: None,
) -> ServeResult:
    """Serve the policy of ``run`` until a signal comes: SIGTERM, or Ctrl-C.

    Args:
        run: An aligned run directory, or a release.
        host: The address to listen to; another one than this machine's own needs a key (``fedvpa keys``).
        port: 0 for one that is free.
        name: What the model is called; by default as the folder is.
        profiles: The file of users' profiles; by default the run's.
        pool: A table of pairs that users can be asked about; see :func:`fedvpa.serving.pool.open_pool`.
        allow_z: Whether a request may bring a z of its own.
        max_rows: Answers that are generated at once.
        max_waiting: Requests that may wait; more are answered by 429.
        max_body: Bytes of a request.
        drain_seconds: How long requests that run have left after the signal.
        origins: Web pages of these origins may ask from a browser; by default none.
        overrides: Where data and language model are now.
        ready: Called once requests are answered.

    Raises:
        RunError: If the run holds no policy.
        ConfigError: If the port is in use, there is no key and ``host`` is not this machine's own, or a package of the
            extra ``serve`` is not installed.
        ModelError: If the base model is not the one that the policy was trained on.
    """
    folder = RunFolder.open(run)
    if pool is not None:
        check_pairs_file(pool)
    _check(max_rows, max_waiting, max_body, drain_seconds)
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"The server needs {' and '.join(missing)}, not installed here.", fix="pip install 'fedvpa[serve]'"
        )
    from fedvpa.serving.gate import is_loopback
    from fedvpa.serving.keys import Keys
    from fedvpa.serving.server import Server, address_of, listen

    keys, named = Keys(folder.keys), _name(folder, name)
    needs_key = not is_loopback(host)
    if needs_key and not keys.all():
        raise ConfigError(
            f"{option('host', host)} lets other machines ask, and there is no key yet.",
            fix=f"Make one: fedvpa keys {folder} add NAME",
        )
    from fedvpa.runs.policies import read_policy_metrics

    read_policy_metrics(folder)  # before a port is taken, and anything heavy is imported
    listening = listen(host, port)
    try:
        from fedvpa.serving.app import make_app
        from fedvpa.serving.opening import opened

        with opened(
            folder,
            named,
            keys,
            profiles=None if profiles is None else Path(profiles),
            pool=None if pool is None else Path(pool),
            allow_z=allow_z,
            max_rows=max_rows,
            max_waiting=max_waiting,
            overrides=overrides,
        ) as state:
            app = make_app(state, max_body=max_body, needs_key=needs_key, origins=origins)
            public = [named, *(f"{named}:{one}" for one in state.catalogue.public())]
            there = Listening(folder.path, address_of(listening), public, needs_key or bool(keys.all()))
            server = Server(app, state.lifecycle, drain_seconds, lambda: ready(there))
            server.run(sockets=[listening])
    finally:
        listening.close()
    return ServeResult(folder.path, server.unfinished)


def _check(max_rows: int, max_waiting: int, max_body: int, drain_seconds: float) -> None:
    """Refuse numbers that cannot work."""
    for key, value, least in (
        ("max_rows", max_rows, 1),
        ("max_waiting", max_waiting, 1),
        ("max_body", max_body, 1),
        ("drain_seconds", drain_seconds, 0),
    ):
        if not value >= least:
            raise ConfigError(f"{option(key, f'{value:g}')} cannot be.", fix=f"Give at least {least}.")


def _name(folder: RunFolder, name: str | None) -> str:
    """What the model is called.

    Raises:
        ConfigError: If it cannot be a name.
    """
    found = folder.path.resolve().name if name is None else name
    if not found or ":" in found or "/" in found or not found.isprintable():
        raise ConfigError(
            f"{found!r} cannot be the name of a model.",
            fix=f"Give one without : and /, such as {option('name', 'mine')}.",
        )
    return found
