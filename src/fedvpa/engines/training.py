"""The rounds of a run: cohorts, aggregation, history, checkpoints; for any algorithm on any engine."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from fedvpa.algorithms.base import Algorithm, Broadcast, CohortUpdate, State, Transform
from fedvpa.algorithms.server.aggregation import drift
from fedvpa.algorithms.server.limits import Guard, said
from fedvpa.algorithms.server.rejections import check_rejected, lower, say_rejected
from fedvpa.algorithms.server.robust import Part, aggregate
from fedvpa.core import tree
from fedvpa.core.errors import ConfigError, TrainingError
from fedvpa.core.progress import say
from fedvpa.core.rules import RulesConfig
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree, below
from fedvpa.engines import loop, vectorised
from fedvpa.engines.codecs import decode, encode, hint
from fedvpa.engines.config import Codec, EngineConfig
from fedvpa.engines.noise_shares import NoiseShares, as_it_is
from fedvpa.engines.private import (
    ANY_LENGTH,
    WITHOUT_MEDIANS,
    Ledger,
    Privacy,
    Release,
    begin,
    check_private,
    within,
)
from fedvpa.engines.runner import CohortRunner, CohortTask, Holder, Members, Metered, nothing, unchanged
from fedvpa.engines.sampling import draw_cohort, draw_dropouts, identities, say_if_all
from fedvpa.engines.secure_aggregation import KEYS, check_additive, check_noise, check_secure, layout_of, text_keys

MOST_REQUESTS = 8
"""How often one round may ask: a method whose round never ends is a mistake. Chosen by us."""


@dataclass(frozen=True, repr=False)
class TrainState:
    """Everything needed to go on.

    Attributes:
        server: What the algorithm knows on the server.
        private: Client id → what a simulated client keeps to itself.
        guard: What the server has found out about the clients' updates: the limits on them.
        ledger: What was released under differential privacy; None without it.
    """

    server: Any
    private: dict[str, Tree] = field(default_factory=dict)
    guard: Guard = field(default_factory=Guard)
    ledger: Ledger | None = None

    __repr__ = short_repr


@dataclass(frozen=True, repr=False)
class Answer:
    """What came of one request of a round.

    Attributes:
        cohort: The clients asked.
        answered: Those that answered.
        rejected: Client id → why its update does not count.
        losses: What the server says about it.
        limits: ``clip_norm`` and ``max_weight``, as they were in force.
        uplink_bytes: Sent by the clients.
        downlink_bytes: Sent to them.
    """

    cohort: list[str]
    answered: frozenset[str]
    rejected: dict[str, str]
    losses: dict[str, float]
    limits: dict[str, float | None]
    uplink_bytes: int
    downlink_bytes: int

    __repr__ = short_repr


def start(algorithm: Algorithm[Any, Any], members: Members, seed: int) -> TrainState:
    """The state before the first round."""
    return TrainState(algorithm.init(members.setting, seed))


def rounds(
    algorithm: Algorithm[Any, Any],
    members: Members,
    engine: EngineConfig,
    seed: int,
    state: TrainState,
    runner: CohortRunner | None = None,
    transform: Transform = unchanged,
    cohort_key: str = "engine.cohort",
    privacy: Privacy | None = None,
) -> Generator[tuple[TrainState, dict[str, Any]], None, None]:
    """Run the rounds that are left, yielding the state after each and its line of ``history.jsonl``.

    Everything random is a function of (seed, round, client id), so going on from a yielded state equals never having
    stopped, provided that ``engine.workers`` and torch's number of threads are the same.

    Args:
        algorithm: The method.
        members: Who takes part; a :class:`~fedvpa.engines.runner.Holder` unless ``runner`` is given.
        engine: Who runs the clients, how many a round asks, how weights travel.
        seed: The run's seed.
        state: Where to go on.
        runner: Runs the cohorts in place of the engine that ``engine.name`` names: nodes of a deployment.
        transform: What is done to each client's update before it leaves the client. A node of a deployment has its own.
        cohort_key: The configuration key of ``engine.cohort``, for messages.
        privacy: The noise on every sum; None for none.

    Raises:
        ConfigError: If the engine cannot run the method.
        TrainingError: If a round's updates are all rejected, and not by the fault of few clients (see
            :mod:`fedvpa.algorithms.server.rejections`), or their sum is not finite.
    """
    if state.server.round >= algorithm.rounds:
        return
    say_if_all(engine.cohort or 1, len(members.client_ids), cohort_key)
    if privacy is not None:
        state = replace(state, ledger=begin(algorithm, state.server, state.ledger, privacy))
    keys = KEYS if algorithm.holds == "features" else text_keys(cohort_key)
    deployed, private = runner is not None, privacy is not None
    check_secure(engine, algorithm.config.server, keys=keys, deployed=deployed, private=private)
    if privacy is not None:
        check_noise(engine, privacy.config)
    check_additive(engine, algorithm, state.server, len(members.client_ids), private=private)
    with nullcontext(runner) if runner else _runner(engine, algorithm, members, transform) as run:
        training = _Rounds(algorithm, members, engine, seed, run, transform, privacy)
        for _ in range(state.server.round, algorithm.rounds):
            began = time.perf_counter()
            state, answers = training.round(state)
            line = _line(state.server.round - 1, answers, time.perf_counter() - began)
            yield state, line if privacy is None else privacy.line(line, state.ledger)


class _Rounds:
    """The rounds of one training; knows who takes part and whose last update was rejected."""

    def __init__(
        self,
        algorithm: Algorithm[Any, Any],
        members: Members,
        engine: EngineConfig,
        seed: int,
        run: CohortRunner,
        transform: Transform,
        privacy: Privacy | None,
    ) -> None:
        self._privacy = privacy
        self._algorithm, self._members, self._engine, self._seed = algorithm, members, engine, seed
        self._run, self._transform = run, transform
        self._known, self._hashed = members.client_ids, identities(members.client_ids)
        self._last_rejected: dict[str, bool] = {}

    def round(self, state: TrainState) -> tuple[TrainState, list[Answer]]:
        """One round: a request to its cohort, and further ones until the algorithm has enough."""
        if self._members.client_ids is not self._known:
            self._known, self._hashed = self._members.client_ids, identities(self._members.client_ids)
        round_, answers = state.server.round, list[Answer]()
        while state.server.round == round_:
            if len(answers) == MOST_REQUESTS:
                raise TrainingError(f"round {round_}: {self._algorithm.name} asks for ever and never ends its round.")
            everyone = self._algorithm.asks_everyone(state.server)
            if self._privacy is not None:
                check_private(self._algorithm, self._algorithm.expected(state.server), everyone=everyone)
            state, answer = self._request(state, list(self._known) if everyone else self._drawn(state))
            answers.append(answer)
        return state, answers

    def _drawn(self, state: TrainState) -> list[str]:
        """The cohort of the next request: that of the round, or with coins one for each release."""
        if self._privacy is not None and self._privacy.config.sampling == "poisson":
            return self._privacy.cohort(state.ledger, self._known)
        size = self._engine.cohort_of(len(self._hashed))
        return draw_cohort(self._known, self._hashed, size, self._seed, state.server.round)

    def _request(self, state: TrainState, cohort: list[str]) -> tuple[TrainState, Answer]:
        """Ask a cohort, check and add up what comes back, and let the server learn from it."""
        algorithm, engine, round_ = self._algorithm, self._engine, state.server.round
        wanted = algorithm.expected(state.server)
        release = None if self._privacy is None else self._privacy.next(state.ledger, wanted)
        rules: RulesConfig = algorithm.config.server if release is None else WITHOUT_MEDIANS
        expected = wanted if release is None else release.answers
        dropped = draw_dropouts(cohort, engine.dropout, self._seed, round_)
        reporting = [name for name in cohort if name not in dropped]
        # With noise what is sent must not tell how many came: it is made as for the expected cohort.
        asked = cohort if release is None else self._known[: round(release.privacy.terms.cohort)]
        sent = algorithm.broadcast(state.server, asked)
        told = state.guard.announced(rules, expected) | ({} if release is None else release.told)
        sent = replace(sent, shared=encode(sent.shared | told, engine.codec))
        received = replace(sent, shared=decode(sent.shared, engine.codec))
        # A runner over a network, whose server holds no pairs, does not read the holder.
        holder, single = cast(Holder[Any], self._members), rules.rule != "mean" or state.guard.measures(rules, expected)
        hidden, most = release is not None, len(cohort) if release is None else len(self._known)
        from_nodes = None if release is None else self._noise_of_nodes(release)
        layout = layout_of(expected, rules, told, most) if engine.secure_aggregation and from_nodes is None else None
        task = CohortTask(
            *(algorithm, received, holder, cohort, reporting, state.private, self._seed, self._transform, single),
            layout=layout if from_nodes is None else from_nodes.shares,
            before_unmasking=nothing if from_nodes is None else from_nodes.count,
            hidden=hidden,
        )
        parts, kept = self._run(task)
        noise = sum(part.noise for part in parts)
        sums = [encode(part.update.sums, engine.codec) for part in parts]
        parts = [_arrived(part, tree_, engine.codec) for part, tree_ in zip(parts, sums, strict=True)]
        parts = parts if release is None or from_nodes is not None else within(parts, received.shared)
        answered = frozenset(name for part in parts for name in part.clients)
        if from_nodes is None:
            found = aggregate(parts, expected, state.guard, rules, None if release is None else ANY_LENGTH)
        else:
            found = as_it_is(parts, state.guard)
        rejected = {name: reason + hint(reason, engine.codec) for name, reason in found.rejected.items()}
        self._check(round_, answered, rejected)
        for line in said(state.guard, found.guard, rules):
            say(f"round {round_}: {line}")
        update, ledger = found.update, cast(Ledger | None, None)
        if release is not None:
            update, ledger = (
                release.noised(update, round_) if from_nodes is None else from_nodes.noised(update, noise, round_)
            )
        server, losses = algorithm.server_update(state.server, update)
        self._check_finite(round_, server)
        uplink, downlink = sum(map(tree.size, sums)) + _own_bytes(parts), _downlink(sent, len(cohort))
        if isinstance(self._run, Metered):
            uplink, downlink = self._run.uplink_bytes, downlink + self._run.downlink_bytes
        if release is not None:
            uplink, downlink = release.traffic(algorithm.broadcast(state.server, self._known[:1]), told, engine.codec)
        guard = found.guard if release is None else state.guard  # norms of single updates are not for keeping
        after = TrainState(server, {**state.private, **kept}, guard, ledger)
        limits = {"clip_norm": _shown(found.clip_norm), "max_weight": _shown(found.max_weight)}
        if algorithm.holds == "texts" and release is None:  # how far single updates point apart is no sum
            losses = losses | _drift([part for part in parts if not rejected.keys() & set(part.clients)])
        return after, Answer(cohort, answered, rejected, losses, limits, uplink, downlink)

    def _noise_of_nodes(self, release: Release) -> NoiseShares | None:
        """What nodes add to a release; None where the server adds all of it."""
        if not release.privacy.config.in_shares:
            return None
        clients = len(self._known)
        return NoiseShares(release, self._engine.secure_share, clients, release.privacy.nodes or clients)

    def _check(self, round_: int, answered: frozenset[str], rejected: dict[str, str]) -> None:
        hidden = self._privacy is not None
        say_rejected(round_, rejected, hidden=hidden)
        self._last_rejected |= {name: name in rejected for name in answered}
        rates = self._algorithm.learning_rates
        check_rejected(round_, answered, rejected, self._last_rejected, rates, hidden=hidden)

    def _check_finite(self, round_: int, server: State) -> None:
        if not all(bool(leaf.isfinite().all()) for leaf in server.params.values()):
            advice = lower(self._algorithm.learning_rates)
            raise TrainingError(f"round {round_}: the weights are no finite numbers any more: {advice}")


def _line(round_: int, answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """The line of ``history.jsonl`` of a round, over all of its requests; its cohort is that of the first."""
    asked = {name for answer in answers for name in answer.cohort}
    silent = {name for answer in answers for name in set(answer.cohort) - answer.answered}
    return {
        "round": round_,
        "losses": {name: value for answer in answers for name, value in answer.losses.items()},
        "seconds": round(seconds, 6),
        "uplink_bytes": sum(answer.uplink_bytes for answer in answers),
        "downlink_bytes": sum(answer.downlink_bytes for answer in answers),
        "cohort": answers[0].cohort,
        "dropped": sorted(silent & asked),
        "rejected": sorted({name for answer in answers for name in answer.rejected}),
        **answers[-1].limits,
    }


@contextmanager
def _runner(
    engine: EngineConfig, algorithm: Algorithm[Any, Any], members: Members, transform: Transform
) -> Iterator[CohortRunner]:
    """What runs a cohort, for as long as the run lasts."""
    if engine.name == "loop":
        yield loop.run_cohort
    elif engine.name == "flower":
        from fedvpa.engines.flower.simulation import simulate

        with simulate(algorithm, cast(Holder[Any], members), engine.codec, transform) as run:
            # deferred: like all of engines/flower, it needs an extra
            from fedvpa.engines.flower.secure_server import secured

            yield secured(run, engine)
    elif algorithm.holds != "features":
        raise ConfigError(
            f"engine.name=vectorised cannot run {algorithm.name!r}: its clients train a language model, one at a time, "
            "and the engine stacks the features of several clients.",
            fix="Use loop or flower.",
        )
    else:
        yield partial(vectorised.run_cohort, workers=engine.workers or vectorised.default_workers())


def _arrived(part: Part, sums: Tree, codec: Codec) -> Part:
    """A part as the server decodes it."""
    return Part(part.clients, CohortUpdate(decode(sums, codec), part.update.own))


def _drift(parts: Sequence[Part]) -> dict[str, float]:
    """How far the clients' changes point apart; nothing where a part is the sum of several, or fewer than two moved."""
    if any(len(part.clients) > 1 for part in parts):
        return {}
    value = drift([below("delta", part.update.sums) for part in parts])
    return {} if value is None else {"drift": value}


def _shown(limit: float | None) -> float | None:
    """A limit with four digits: engines agree to more, and not to the last bit."""
    return None if limit is None else float(f"{limit:.4g}")


def _own_bytes(parts: Sequence[Part]) -> int:
    """Bytes of what is not additive."""
    return sum(tree.size(own) for part in parts for own in part.update.own.values())


def _downlink(broadcast: Broadcast, clients: int) -> int:
    """Bytes that the cohort receives."""
    return clients * tree.size(broadcast.shared) + tree.size(broadcast.own)
