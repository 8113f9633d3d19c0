"""From a configuration and its clients to a trained selector."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fedvpa.algorithms.base import InfersMembers, SelectorAlgorithm, placed_by_group
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server.aggregation import Averaged
from fedvpa.alignment.stage1 import Stage1, Users
from fedvpa.core.errors import ConfigError
from fedvpa.core.short_repr import short_repr
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.secure_aggregation import check_additive
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.engines.vectorised import default_workers
from fedvpa.evaluation.accuracy import Members
from fedvpa.privacy.keyed import Key
from fedvpa.privacy.unmasked import Unmasked
from fedvpa.runs.config import RunConfig
from fedvpa.runs.held import HeldPairs
from fedvpa.runs.noise import privacy_of, summary
from fedvpa.runs.prepare import Prepared
from fedvpa.runs.spending import Spending
from fedvpa.runs.tastes import known_tastes
from fedvpa.runs.users import RunUsers, infer_users
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector


@dataclass(frozen=True, repr=False)
class Trained:
    """A finished training.

    Attributes:
        selector: The preference model.
        state: The final state of server and simulated clients.
        seconds: Wall-clock seconds of all rounds.
        seen: The users that trained, in the partition's order.
        unseen: The users that did not.
        privacy: What was spent of the privacy that was promised (:func:`fedvpa.runs.noise.summary`); None where nothing
            is noised.
    """

    selector: Selector
    state: TrainState
    seconds: float
    seen: Users
    unseen: Users
    privacy: Mapping[str, Any] | None = None

    __repr__ = short_repr


class SelectorJob:
    """The rounds of a run; see :class:`fedvpa.core.loop.Job`.

    Args:
        config: The run.
        prepared: Its clients.
        state: A state to go on from; by default the one before the first round.
        workers: Threads that share out a cohort, as in the run that is gone on with; by default those of the
            configuration, or what this machine has.
        key: Of coins and noise, where the run is private; None for a new one that is kept nowhere.
        unmasked: What counts how often noise of nodes was unmasked; None for nothing.

    Raises:
        ConfigError: If the run cannot be as private as its configuration says, or secure aggregation cannot hide what
            the method's clients send.
        DataError: If the method reads true groups and a client has none.
    """

    unit: Literal["round"] = "round"
    is_main = True

    def __init__(
        self,
        config: RunConfig,
        prepared: Prepared,
        state: TrainState | None = None,
        *,
        workers: int | None = None,
        key: Key | None = None,
        unmasked: Unmasked | None = None,
    ) -> None:
        self.config, self.prepared = config, prepared
        self.workers = workers_of(config.engine) if workers is None else workers
        self.algorithm = make(config.method, config.method_config)
        check_groups(self.algorithm, prepared)
        clients = prepared.federation.client_ids
        self.privacy = privacy_of(config, len(clients), self.algorithm.rounds, key, unmasked=unmasked)
        self.state = state or start(self.algorithm, prepared.federation, config.seed)
        check_additive(config.engine, self.algorithm, self.state.server, len(prepared.federation.client_ids))

    @property
    def title(self) -> str:
        """What progress calls it."""
        return f"{self.config.method}: rounds"

    @property
    def total(self) -> int:
        """Rounds; 0 for a method that needs no federation."""
        return self.algorithm.rounds

    @property
    def done(self) -> int:
        """Rounds behind it."""
        return self.state.server.round

    @property
    def checkpoint_due(self) -> bool:
        """Every so many rounds."""
        every = self.config.engine.checkpoint_every
        return bool(every) and self.done % every == 0

    def run(self) -> Generator[dict[str, Any], None, None]:
        """The rounds that are left; yields their lines of ``history.jsonl``."""
        federation = self.prepared.federation
        engine = self.config.engine.model_copy(update={"workers": self.workers or self.config.engine.workers})
        ledger, spending = self.state.ledger, None
        if self.privacy is not None:
            spending = Spending(self.privacy, federation.client_ids, ledger.releases if ledger else 0)
        for state, line in rounds(
            self.algorithm, federation, engine, self.config.seed, self.state, privacy=self.privacy
        ):
            self.state = state
            yield line if spending is None else spending.after_round(line)

    def spent(self) -> dict[str, Any] | None:
        """What was spent of the privacy that was promised; None where nothing is noised."""
        if self.privacy is None or self.state.ledger is None:
            return None
        return summary(self.privacy, self.state.ledger, self.prepared.federation.client_ids)

    def finish(self, seconds: float) -> Trained:
        """The selector and what it infers of every user."""
        federation, by_group = self.prepared.federation, placed_by_group(self.algorithm)
        selector = self.algorithm.selector(self.state.server)
        members = members_of(self.algorithm, self.state)
        seen = infer_users(selector, federation, federation.partition.seen, by_group=by_group, members=members)
        unseen = infer_users(selector, federation, federation.partition.unseen, by_group=by_group)
        named = replace(selector, scaling=federation.scaling, feature_key=self.prepared.feature_key)
        return Trained(named, self.state, seconds, seen, unseen, self.spent())


def members_of(algorithm: SelectorAlgorithm[Any], state: TrainState) -> Members | None:
    """What infers z of clients that trained; None where the selector does, from their pairs alone."""
    if not isinstance(algorithm, InfersMembers):
        return None
    infers = algorithm

    def infer(names: Sequence[str], context: Pairs) -> Posterior:
        return infers.infer_members(state.server, context, [state.private.get(name, {}) for name in names])

    return infer


def longer(config: RunConfig, state: TrainState, rounds: int) -> tuple[RunConfig, TrainState]:
    """A run that goes on to more rounds, and its state without the mean of what were its last rounds.

    Args:
        config: The run as it was.
        state: Of its last checkpoint.
        rounds: In all.

    Raises:
        ConfigError: If they are not more than before, or the method's timetable would not be the one it kept so far.
    """
    if rounds <= config.server.rounds:
        raise ConfigError(
            f"The run has {config.server.rounds} rounds, and {rounds} are asked for.",
            fix="Give more, or go on with --resume alone.",
            where="server.rounds",
        )
    if not make(config.method, config.method_config).rounds:
        raise ConfigError(
            f"{config.method!r} needs no rounds, so it cannot go on to more.",
            fix="Leave them out.",
            where="server.rounds",
        )
    if config.privacy.epsilon is not None:
        raise ConfigError(
            f"The noise was calibrated so that {config.server.rounds} rounds cost ε = {config.privacy.epsilon:g}, and "
            "more of them cost more.",
            fix="Train another run, or one with privacy.noise_multiplier, whose ε grows with its rounds.",
            where="server.rounds",
        )
    if config.method == "fedbiscuit" and None in (config.biscuit.warmup_rounds, config.biscuit.regroup_every):
        raise ConfigError(
            "The timetable of 'fedbiscuit' follows from the number of rounds, and it was begun with another one.",
            fix="Train another run, or one that sets biscuit.warmup_rounds and biscuit.regroup_every.",
            where="server.rounds",
        )
    server = state.server
    if isinstance(server, Averaged):
        server = replace(server, average={}, averaged=0)
    return with_rounds(config, rounds), replace(state, server=server)


def with_rounds(config: RunConfig, rounds: int) -> RunConfig:
    """The same run with so many rounds."""
    return config.model_copy(update={"server": config.server.model_copy(update={"rounds": rounds})})


def check_groups(algorithm: SelectorAlgorithm[Any], prepared: Prepared) -> None:
    """Raise DataError if a method reads true groups and a client has none."""
    if algorithm.reads_groups:
        prepared.federation.group_one_hot(prepared.federation.client_ids)


def workers_of(engine: EngineConfig) -> int:
    """Threads that share out a cohort; 0 on engines that have none."""
    return (engine.workers or default_workers()) if engine.name == "vectorised" else 0


def fit(config: RunConfig, prepared: Prepared) -> Trained:
    """Train in memory, without a run directory."""
    job = SelectorJob(config, prepared)
    return job.finish(sum(line["seconds"] for line in job.run()))


def stage1_of(config: RunConfig, prepared: Prepared, trained: Trained) -> Stage1:
    """What stage 2 needs of a training in memory."""
    return Stage1(
        method=config.method,
        algorithm=make(config.method, config.method_config),
        selector=trained.selector,
        seen=trained.seen,
        unseen=trained.unseen,
        open_pairs=lambda: prepared.pairs,
        has_text=True,
        holds_out=run_users(prepared, trained).holds_out,
        data=prepared.fingerprint(),
        features=config.features,
        policy=config.policy,
        seed=config.seed,
        world=config.data.source == "world",
        strict=config.data.strict,
        open_tastes=lambda: known_tastes(config, trained.seen.ids),
        private=config.privacy.on,
    )


def run_users(prepared: Prepared, trained: Trained) -> RunUsers:
    """The users of a finished training, as a run directory keeps them."""
    partition, held = prepared.federation.partition, HeldPairs.of(prepared.pairs)
    return RunUsers(trained.seen, trained.unseen, partition, prepared.fingerprint(), held)
