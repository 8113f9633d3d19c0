"""The rounds of a run: cohorts, aggregation, history, checkpoints; for any algorithm on any engine."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, cast

from fedvpa.algorithms.base import Algorithm, Broadcast, CohortUpdate, Private, ServerState
from fedvpa.algorithms.rejections import check_rejected, lower
from fedvpa.algorithms.robust import Part, aggregate
from fedvpa.core import tree
from fedvpa.core.errors import TrainingError
from fedvpa.core.progress import say
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree
from fedvpa.engines import loop, vectorised
from fedvpa.engines.codecs import decode, encode
from fedvpa.engines.config import Codec, EngineConfig
from fedvpa.engines.federation import Federation
from fedvpa.engines.runner import CohortRunner, CohortTask
from fedvpa.engines.sampling import draw_cohort, draw_dropouts, identities, say_if_all


class Clients(Protocol):
    """What the rounds need to know about who takes part; a ``Federation`` knows more."""

    @property
    def client_ids(self) -> tuple[str, ...]:
        """The clients that train; more may join between rounds."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The distinct true groups, for the oracle."""

    @property
    def dimension(self) -> int:
        """D."""


@dataclass(frozen=True, repr=False)
class TrainState:
    """Everything needed to go on: what the server knows, and what its simulated clients keep to themselves."""

    server: ServerState
    private: Mapping[str, Private] = field(default_factory=dict)

    __repr__ = short_repr


def start(algorithm: Algorithm, federation: Clients, seed: int) -> TrainState:
    """The state before the first round."""
    return TrainState(algorithm.init(federation.dimension, federation.groups, seed))


def rounds(
    algorithm: Algorithm,
    federation: Clients,
    engine: EngineConfig,
    seed: int,
    state: TrainState,
    runner: CohortRunner | None = None,
) -> Generator[tuple[TrainState, dict[str, Any]], None, None]:
    """Run the rounds that are left, yielding the state after each and its line of ``history.jsonl``.

    Everything random is a function of (seed, round, client id), so going on from a yielded state equals never having
    stopped, provided that ``engine.workers`` and torch's number of threads are the same.

    Args:
        algorithm: The method.
        federation: Who takes part; a ``Federation`` unless ``runner`` is given.
        engine: Who runs the clients, how many a round asks, how weights travel.
        seed: The run's seed.
        state: Where to go on.
        runner: Runs the cohorts in place of the engine that ``engine.name`` names: nodes of a deployment.

    Raises:
        TrainingError: If a round's updates are all rejected, and not by the fault of few clients (see
            :mod:`fedvpa.algorithms.rejections`), or their sum is not finite.
    """
    if state.server.round >= algorithm.rounds:
        return
    holder = cast(Federation, federation)  # A runner over a network, whose server holds no pairs, does not read it.
    known, hashed = federation.client_ids, identities(federation.client_ids)
    last_rejected: dict[str, bool] = {}
    say_if_all(engine.cohort or 1, len(known), "engine.cohort")
    with nullcontext(runner) if runner else _runner(engine, algorithm, federation) as run:
        for round_ in range(state.server.round, algorithm.rounds):
            began = time.perf_counter()
            if federation.client_ids is not known:
                known, hashed = federation.client_ids, identities(federation.client_ids)
            cohort = draw_cohort(known, hashed, engine.cohort_of(len(hashed)), seed, round_)
            dropped = draw_dropouts(cohort, engine.dropout, seed, round_)
            reporting = [name for name in cohort if name not in dropped]
            sent = algorithm.broadcast(state.server, cohort)
            sent = replace(sent, shared=encode(sent.shared, engine.codec))
            received = replace(sent, shared=decode(sent.shared, engine.codec))
            task = CohortTask(algorithm, received, holder, cohort, reporting, state.private, seed)
            parts, kept = run(task)
            sums = [encode(part.update.sums, engine.codec) for part in parts]
            parts = [_arrived(part, tree_, engine.codec) for part, tree_ in zip(parts, sums, strict=True)]
            answered = {name for part in parts for name in part.clients}
            update, rejected = aggregate(parts, state.server.params, algorithm.config.server)
            for name, reason in rejected.items():
                say(f"round {round_}: the update of client {name!r} was rejected: {reason}")
            last_rejected |= {name: name in rejected for name in answered}
            check_rejected(round_, answered, rejected, last_rejected, _rates(algorithm))
            server, losses = algorithm.server_update(state.server, update)
            if not all(bool(leaf.isfinite().all()) for leaf in server.params.values()):
                advice = lower(_rates(algorithm))
                raise TrainingError(f"round {round_}: the weights are no finite numbers any more: {advice}")
            state = TrainState(server, {**state.private, **kept})
            yield (
                state,
                {
                    "round": round_,
                    "losses": losses,
                    "seconds": round(time.perf_counter() - began, 6),
                    "uplink_bytes": sum(map(tree.size, sums)) + _posterior_bytes(parts),
                    "downlink_bytes": _downlink(sent, len(cohort)),
                    "cohort": cohort,
                    "dropped": sorted(set(cohort) - answered),
                    "rejected": sorted(rejected),
                },
            )


def _rates(algorithm: Algorithm) -> dict[str, float]:
    """The learning rates, by their keys."""
    local = algorithm.config.local
    return {"local.head_lr": local.head_lr, "local.encoder_lr": local.encoder_lr}


@contextmanager
def _runner(engine: EngineConfig, algorithm: Algorithm, federation: Clients) -> Iterator[CohortRunner]:
    """What runs a cohort, for as long as the run lasts."""
    if engine.name == "loop":
        yield loop.run_cohort
    elif engine.name == "flower":
        from fedvpa.engines.flower.simulation import simulate

        with simulate(algorithm, cast(Federation, federation), engine.codec) as run:
            yield run
    else:
        yield partial(vectorised.run_cohort, workers=engine.workers or vectorised.default_workers())


def _arrived(part: Part, sums: Tree, codec: Codec) -> Part:
    """A part as the server decodes it."""
    return Part(part.clients, CohortUpdate(decode(sums, codec), part.update.posteriors))


def _posterior_bytes(parts: Sequence[Part]) -> int:
    """Bytes of the posteriors: 8k for each client."""
    posteriors = (posterior for part in parts for posterior in part.update.posteriors.values())
    return sum(mean.nbytes + log_var.nbytes for mean, log_var in posteriors)


def _downlink(broadcast: Broadcast, clients: int) -> int:
    """Bytes that the cohort receives."""
    return clients * tree.size(broadcast.shared) + tree.size(broadcast.own)
