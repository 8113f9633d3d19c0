"""A run opened to be served: its policies with their engines, and the profiles of its users."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from fedvpa.core.errors import ConfigError
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.policies import open_aligned
from fedvpa.serving.catalogue import Catalogue, Served
from fedvpa.serving.engine import BatchEngine
from fedvpa.serving.keys import Keys
from fedvpa.serving.lifecycle import Lifecycle
from fedvpa.serving.metrics import Metrics
from fedvpa.serving.profile_routes import ReadingGate
from fedvpa.serving.profiles import Profiles
from fedvpa.serving.state import State

CLOSING_SECONDS = 1.0
"""What engines have to stop, once nobody waits for an answer any more."""


@contextmanager
def opened(
    run: RunFolder,
    name: str,
    keys: Keys,
    *,
    profiles: Path | None = None,
    pool: Path | None = None,
    allow_z: bool = False,
    max_rows: int = 32,
    max_waiting: int = 128,
    overrides: Sequence[str] = (),
) -> Iterator[State]:
    """What a server needs of a run, while inside.

    Args:
        run: An aligned run.
        name: What the model is called.
        keys: Who may ask.
        profiles: Their file; by default the run's.
        pool: A table of pairs that users can be asked about.
        allow_z: Whether a request may bring a z of its own.
        max_rows: Answers of a policy that are generated at once.
        max_waiting: Requests that may wait for a policy.
        overrides: Where data and language model are now.

    Raises:
        RunError: If the run holds no policy, or the file of profiles cannot be read.
        ModelError: If a language model is not the one of the training.
    """
    aligned = open_aligned(run, overrides)
    with ExitStack() as ends:
        engines = []
        for policy in aligned.policies.values():
            engines.append(BatchEngine(policy, max_rows=max_rows, max_waiting=max_waiting))
            ends.callback(engines[-1].close, CLOSING_SECONDS)
        served = {
            group: Served(policy, engine)
            for (group, policy), engine in zip(aligned.policies.items(), engines, strict=True)
        }
        catalogue = Catalogue(name, served, aligned.method, created=int(time.time()))
        store, why = _profiles(run, catalogue, profiles, pool, overrides)
        if store is not None:
            ends.enter_context(closing(store))
        yield State(
            catalogue=replace(catalogue, profiles=store),
            profiles=store,
            no_profiles=why,
            keys=keys,
            metrics=Metrics(
                lambda: sum(engine.stats.running for engine in engines),
                lambda: sum(engine.stats.waiting for engine in engines),
                lambda: 0 if store is None else len(store.names()),
            ),
            lifecycle=Lifecycle(),
            reading=ReadingGate(),
            allow_z=allow_z,
        )


def _profiles(
    run: RunFolder, catalogue: Catalogue, file: Path | None, pool: Path | None, overrides: Sequence[str]
) -> tuple[Profiles | None, str]:
    """The profiles of a run; or None, and why there can be none."""
    if not catalogue.follows_z:
        return None, catalogue.without_z()
    if not (run.selector / "config.json").is_file():
        return None, "This run holds no selector, without which no preference can be inferred from pairs."
    try:
        return Profiles.open(run, file, overrides, pool=pool), ""
    except ConfigError as error:
        return None, f"{error.problem} {error.fix}"
