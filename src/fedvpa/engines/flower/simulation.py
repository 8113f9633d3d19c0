"""The engine ``flower``: server and nodes in Flower's local simulation, one node per client."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.util import find_spec
from queue import Queue
from typing import TYPE_CHECKING, Any

from fedvpa.algorithms.base import Algorithm, Holds, Transform
from fedvpa.core.errors import ConfigError, FedvpaError
from fedvpa.engines.config import Codec
from fedvpa.engines.runner import Holder, Packed, Packs, unchanged

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp

    from fedvpa.engines.flower.client import Node
    from fedvpa.engines.flower.server import GridCohort

FLOWER_VERSIONS = ("1.41", "1.42")
"""The releases of flwr that run the tests of this engine: its message API changes with minor versions.

The ``flower`` extra of ``pyproject.toml`` names the same range, and a test compares the two.
"""

INSTEAD: Mapping[Holds, str] = {"features": "engine.name=vectorised", "texts": "policy.clients.engine=loop"}
"""What clients hold → the engine that gives the same without Flower."""

DEADLINE_SECONDS: Mapping[Holds, float] = {"features": 600.0, "texts": 7 * 24 * 3600.0}
"""How long a round of the simulation waits. Chosen by us: only a defect makes a simulated node silent, and a week is
longer than any round of language models that one machine trains."""


def require_flower() -> None:
    """Raise ConfigError if Flower or its simulation is not installed; switch its telemetry off."""
    missing = [name for name in ("flwr", "ray") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"engine.name=flower needs {' and '.join(missing)}, not installed here.",
            fix="pip install 'fedvpa[flower]', or use another engine.",
        )
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@contextmanager
def simulate(
    algorithm: Algorithm[Any, Any], holder: Holder[Any], codec: Codec, transform: Transform = unchanged
) -> Iterator[GridCohort]:
    """Start Flower's simulation, yield what runs cohorts on it, and stop it.

    Flower's own loop runs in a thread; its ServerApp only lends out the grid, so that rounds, checkpoints and signals
    stay with ``engines/training.py``, as on the other engines.

    Args:
        algorithm: What each client does.
        holder: What all clients hold; there is one simulated node for each of them.
        codec: How weights travel.
        transform: What is done to each client's update before it leaves the client.

    Raises:
        ConfigError: If Flower is not installed.
        FedvpaError: If the simulation fails.
    """
    require_flower()
    import ray

    from fedvpa.engines.flower.server import GridCohort

    logging.getLogger("flwr").setLevel(logging.ERROR)
    _start_ray(INSTEAD[algorithm.holds])
    try:
        held = ray.put((algorithm, holder.packed() if isinstance(holder, Packs) else holder, transform))
        simulation = _Simulation(held, len(holder.client_ids), algorithm.holds)
        simulation.start()
        try:
            hosts = dict(zip(holder.client_ids, sorted(simulation.nodes()), strict=True))
            yield GridCohort(
                simulation.grid,
                hosts,
                simulated=True,
                deadline=DEADLINE_SECONDS[algorithm.holds],
                quorum=1.0,
                codec=codec,
                on_poll=simulation.check,
            )
        finally:
            simulation.stop()
    finally:
        ray.shutdown()


def workers_cpus(holds: Holds) -> int:
    """How many processors one of Ray's workers takes: there are as many workers as that leaves room for.

    Where clients train a language model a single worker takes all, so that there is one more model in memory, and not
    one for each processor. Chosen by us: the clients then come one after the other, as on the engine ``loop``.
    """
    import ray

    return 1 if holds == "features" else max(1, int(ray.cluster_resources().get("CPU", 1)))


def _start_ray(instead: str) -> None:
    """Start Ray, and take SIGTERM back from it: here it means to save a checkpoint and end.

    Args:
        instead: The engine to use where Ray does not start.
    """
    import ray

    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False, ignore_reinit_error=True)
    except Exception as error:  # Ray raises many kinds, plain Exception among them.
        raise FedvpaError(
            f"Ray, which runs Flower's simulation, did not start ({_first_line(error)}). Check free memory, /dev/shm "
            f"and RAY_ADDRESS, or use {instead}, which gives the same result."
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


class _Simulation:
    """Flower's simulation in a thread, for as long as its grid is lent out.

    Args:
        held: Algorithm, holder and transform in Ray's object store.
        count: How many nodes to simulate.
        holds: What they hold.
    """

    def __init__(self, held: Any, count: int, holds: Holds) -> None:
        self._held, self._count, self._holds = held, count, holds
        self._ready, self._done = Queue[Any](), threading.Event()
        self._failure = ""
        self._thread: threading.Thread
        self.grid: Any = None

    def start(self) -> None:
        """Start it and wait for its grid."""
        from flwr.serverapp import ServerApp

        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            self._ready.put(grid)
            self._done.wait()

        self._thread = threading.Thread(target=self._run, args=(server,), name="flower", daemon=True)
        self._thread.start()
        self.grid = self._ready.get()

    def stop(self) -> None:
        """End it and wait for its thread."""
        self._done.set()
        self._thread.join()

    def check(self, online: Collection[int] = ()) -> None:
        """Raise FedvpaError if the simulation has failed; ``online`` is not read."""
        if self._failure:
            raise FedvpaError(
                f"Flower's simulation has failed: {self._failure}. Go on from the last checkpoint with --resume, or "
                f"use {INSTEAD[self._holds]}, which gives the same result."
            )

    def nodes(self) -> list[int]:
        """The nodes, once all of them are there."""
        self.check()
        waited = threading.Event()
        for _ in range(600):
            nodes = list(self.grid.get_node_ids())
            if len(nodes) >= self._count:
                return nodes
            waited.wait(0.1)
        raise FedvpaError(f"Flower's simulation has {len(nodes)} of {self._count} nodes after a minute.")

    def _run(self, server: ServerApp) -> None:
        try:
            from flwr.simulation import run_simulation

            from fedvpa.engines.flower.client import client_app

            run_simulation(
                server,
                client_app(_Held(self._held), nullcontext),
                num_supernodes=self._count,
                backend_config={"client_resources": {"num_cpus": workers_cpus(self._holds), "num_gpus": 0.0}},
            )
            reason = "it ended by itself"
        except BaseException as error:
            reason = _first_line(error)
        if not self._done.is_set():
            self._failure = reason
            self._ready.put(None)


def _first_line(error: BaseException) -> str:
    """What an error says, without the pages that Ray and Flower add."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class _Held:
    """Algorithm and holder out of Ray's object store, fetched once per process."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference

    def __call__(self, context: Context) -> Node:
        return _fetch(self.reference)


@cache
def _fetch(reference: Any) -> Node:
    import ray

    from fedvpa.engines.flower.client import Node

    algorithm, held, transform = ray.get(reference)
    # Opened here rather than while it is unpickled, where Ray would wrap what goes wrong into pages of its own.
    holder = held.opened() if isinstance(held, Packed) else held
    return Node(algorithm, holder, transform=transform)
