"""The engine ``flower``: server and nodes in Flower's local simulation, one node per client."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from queue import Queue
from typing import TYPE_CHECKING, Any

from fedvpa.algorithms.base import Algorithm
from fedvpa.core.errors import ConfigError, FedvpaError
from fedvpa.engines.codecs import Codec
from fedvpa.engines.federation import Federation

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid

    from fedvpa.engines.flower.client import Node
    from fedvpa.engines.flower.server import GridCohort

FLOWER_VERSIONS = ("1.41", "1.42")
"""The releases of flwr that run the tests of this engine: its message API changes with minor versions.

The ``flower`` extra of ``pyproject.toml`` names the same range, and a test compares the two.
"""

DEADLINE_SECONDS = 600.0
"""How long a round of the simulation waits. Chosen by us: only a defect makes a simulated node silent."""


def require_flower() -> None:
    """Raise ConfigError if Flower or its simulation is not installed; switch its telemetry off."""
    missing = [name for name in ("flwr", "ray") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"engine.name=flower needs {' and '.join(missing)}, not installed here.",
            fix="pip install 'fedvpa[flower]', or use engine.name=vectorised.",
        )
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@contextmanager
def simulate(algorithm: Algorithm, federation: Federation, codec: Codec) -> Iterator[GridCohort]:
    """Start Flower's simulation, yield what runs cohorts on it, and stop it.

    Flower's own loop runs in a thread; its ServerApp only lends out the grid, so that rounds, checkpoints and signals
    stay with ``engines/training.py``, as on the other engines.

    Raises:
        ConfigError: If Flower is not installed.
        FedvpaError: If the simulation fails.
    """
    require_flower()
    import ray
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    from fedvpa.engines.flower.client import client_app
    from fedvpa.engines.flower.server import GridCohort

    logging.getLogger("flwr").setLevel(logging.ERROR)
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False, ignore_reinit_error=True)
    except Exception as error:  # Ray raises many kinds, plain Exception among them.
        raise FedvpaError(
            f"Ray, which runs Flower's simulation, did not start ({_first_line(error)}). Check free memory, /dev/shm "
            "and RAY_ADDRESS, or use engine.name=vectorised, which gives the same result."
        ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray takes SIGTERM over; here it means: save a checkpoint and end.
        signal.signal(signal.SIGTERM, before)
    held = ray.put((algorithm, federation))
    server, ready, done = ServerApp(), Queue[Any](), threading.Event()
    failed: list[str] = []

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        ready.put(grid)
        done.wait()

    def serve() -> None:
        try:
            run_simulation(
                server,
                client_app(_Held(held)),
                num_supernodes=len(federation.client_ids),
                backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            )
            reason = "it ended by itself"
        except BaseException as error:
            reason = _first_line(error)
        if not done.is_set():
            failed.append(reason)
            ready.put(None)

    def check(online: set[int]) -> None:
        if failed:
            raise FedvpaError(
                f"Flower's simulation has failed: {failed[0]}. Go on from the last checkpoint with --resume, or use "
                "engine.name=vectorised, which gives the same result."
            )

    thread = threading.Thread(target=serve, name="flower", daemon=True)
    thread.start()
    try:
        grid = ready.get()
        check(set())
        nodes = sorted(_nodes(grid, len(federation.client_ids)))
        hosts = dict(zip(federation.client_ids, nodes, strict=True))
        yield GridCohort(
            grid, hosts, simulated=True, deadline=DEADLINE_SECONDS, quorum=1.0, codec=codec, meanwhile=check
        )
    finally:
        done.set()
        thread.join()
        ray.shutdown()


def _nodes(grid: Grid, count: int) -> list[int]:
    """The nodes, once all of them are there."""
    waited = threading.Event()
    for _ in range(600):
        nodes = list(grid.get_node_ids())
        if len(nodes) >= count:
            return nodes
        waited.wait(0.1)
    raise FedvpaError(f"Flower's simulation has {len(nodes)} of {count} nodes after a minute.")


def _first_line(error: BaseException) -> str:
    """What an error says, without the pages that Ray and Flower add."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class _Held:
    """Algorithm and federation out of Ray's object store, fetched once per process."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference

    def __call__(self, context: Context) -> Node:
        return _fetch(self.reference)


@cache
def _fetch(reference: Any) -> Node:
    import ray

    from fedvpa.engines.flower.client import Node

    algorithm, federation = ray.get(reference)
    return Node(algorithm, federation)
