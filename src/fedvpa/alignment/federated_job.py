"""The policy of a method whose clients train it, round by round: ``feddpo`` and the others of ``POLICY_METHODS``.

The rounds are those of every federated method (:mod:`fedvpa.engines.training`); what is the method's own stands in
:class:`~fedvpa.algorithms.policy_method.PolicyMethod`.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal, Protocol, Self

from torch import Tensor

from fedvpa.algorithms.client.text_client import AdapterSetting
from fedvpa.algorithms.policy_method import PolicyTask
from fedvpa.algorithms.registry import POLICY_METHODS
from fedvpa.alignment.language_look import look_at_language, look_notes, look_prompts
from fedvpa.alignment.stage1 import ONE
from fedvpa.core.errors import DataError
from fedvpa.core.processes import current
from fedvpa.core.progress import say
from fedvpa.core.tree import Tree
from fedvpa.data.report import DataReport
from fedvpa.data.schema import Pair, Text
from fedvpa.engines.checkpoint import from_tree, to_tree
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.private import Ledger, Privacy, check_private
from fedvpa.engines.runner import CohortRunner, Members
from fedvpa.engines.secure_aggregation import check_additive, check_secure, text_keys
from fedvpa.engines.text_federation import TextFederation
from fedvpa.engines.training import rounds, start
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.policy import Policy, new_policy
from fedvpa.policy.templates import with_template


class Counted(Members, Protocol):
    """Who takes part, and how many pairs each has."""

    def size(self, client_id: str) -> int:
        """How many pairs or prompts a client holds."""


class Noise(Protocol):
    """The noise on the sums of a policy's rounds, and what it comes to."""

    @property
    def privacy(self) -> Privacy:
        """The mechanism."""

    def spent(self, ledger: Ledger, client_ids: tuple[str, ...]) -> dict[str, Any]:
        """What ``metrics.json`` says of it."""


class FederatedJob:
    """The policy of the last round.

    It has no selector that could choose a stopping step on public prompts, so it runs to the end of its schedule. There
    one look tells whether it has kept its language (:mod:`fedvpa.alignment.language_look`). With noise that look, and
    what a method checks beforehand, read public prompts alone.

    Args:
        method: Its name in ``POLICY_METHODS``.
        task: The run.
        pairs: Client id → the pairs that it may train a policy on.
        strict: Whether a pair that is left out is an error (``data.strict``).
        noise: On the sum of every round; None for none.

    Raises:
        ConfigError: If there is no such method, or it has something against the settings.
        DataError: If no client has anything to train on.
    """

    name = ONE
    unit: Literal["round"] = "round"

    def __init__(
        self,
        method: str,
        task: PolicyTask,
        pairs: Mapping[str, Sequence[Pair]],
        *,
        strict: bool = False,
        noise: Noise | None = None,
    ) -> None:
        entry = POLICY_METHODS.get(method)
        algorithm = entry.algorithm(task)  # what it has against its settings, before anything is loaded
        check_clients(method, task, private=noise is not None)
        policy = fresh_policy(task)
        if noise is not None:
            check_private(algorithm, algorithm.expected(algorithm.init(AdapterSetting.of(policy), task.seed)))
        prompts = prompts_of(pairs) if noise is None else []
        world = task.population is not None
        # Read now, so that a file that cannot be read shows before the rounds.
        looked = look_prompts(task.settings, task.seed, prompts, world=world, strict=strict)
        entry.check(task, lambda: policy, prompts if noise is None else looked)
        held = entry.clients(task, policy, pairs, strict=strict)
        clients = TextFederation.of(policy, held.data)
        if not any(map(clients.size, clients.client_ids)):
            raise DataError(
                f"None of the {len(pairs)} clients has a preference pair, so {method!r} has nothing to learn."
            )
        self._begin(method, task, policy, clients, looked, report=held.report, noise=noise)

    @classmethod
    def deployed(cls, method: str, task: PolicyTask, policy: Policy, clients: Counted, runner: CohortRunner) -> Self:
        """The same rounds, whose clients are on other machines.

        Args:
            method: Its name in ``POLICY_METHODS``.
            task: The run.
            policy: The server's base model with the initial adapter.
            clients: Who takes part, and how many pairs each has.
            runner: Runs their cohorts.
        """
        job = cls.__new__(cls)
        looked = look_prompts(task.settings, task.seed, (), world=task.population is not None, strict=False)
        job._begin(method, task, policy, clients, looked, runner=runner)
        return job

    def _begin(
        self,
        method: str,
        task: PolicyTask,
        policy: Policy,
        clients: Counted,
        looked: Sequence[Text],
        *,
        report: DataReport | None = None,
        runner: CohortRunner | None = None,
        noise: Noise | None = None,
    ) -> None:
        self.method, self._task, self._entry = method, task, POLICY_METHODS.get(method)
        self._algorithm = self._entry.algorithm(task)
        self._policy, self._clients, self._report, self._runner = policy, clients, report, runner
        self._state = start(self._algorithm, clients, task.seed)
        engine = text_engine(task.settings, self._entry.cohort(task))
        check_additive(engine, self._algorithm, self._state.server, len(clients.client_ids), private=noise is not None)
        self._counts: dict[str, Any] = {"uplink_bytes": 0, "rejected": 0}
        self._noise = noise
        self._prompts = policy.tokenizer.prompts(looked)
        if not looked:
            say(
                f"WARNING: {method}: no prompts are here, so nothing will tell whether the policy keeps its language "
                "(policy.candidates.prompt_file=FILE gives some)"
            )

    @property
    def clients(self) -> Counted:
        """Who takes part."""
        return self._clients

    @property
    def settings(self) -> PolicyConfig:
        """Stage 2."""
        return self._task.settings

    @property
    def seed(self) -> int:
        """Names its random streams."""
        return self._task.seed

    @property
    def title(self) -> str:
        """See :class:`~fedvpa.core.loop.Job`."""
        return f"{self.method}: rounds"

    @property
    def total(self) -> int:
        """Rounds."""
        return self._algorithm.rounds

    @property
    def done(self) -> int:
        """Rounds behind it."""
        return int(self._state.server.round)

    @property
    def is_main(self) -> bool:
        """See :class:`~fedvpa.core.loop.Job`."""
        return current().main

    @property
    def checkpoint_due(self) -> bool:
        """After every round, unless checkpoints are off: a round is long."""
        return bool(self.settings.checkpoint_every)

    def run(self) -> Generator[dict[str, Any], None, None]:
        """See :class:`~fedvpa.core.loop.Job`."""
        engine = text_engine(self.settings, self._entry.cohort(self._task))
        key = self._entry.cohort_key
        privacy = None if self._noise is None else self._noise.privacy
        going = rounds(
            *(self._algorithm, self._clients, engine, self.seed, self._state, self._runner),
            cohort_key=key,
            privacy=privacy,
        )
        for state, line in going:
            self._state = state
            found = self._line(line)
            rejected = self._counts["rejected"] + len(found["rejected"])
            self._counts = {"uplink_bytes": found["uplink_bytes"], "rejected": rejected}
            yield found

    def _line(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """A line of the rounds as ``align`` keeps it: numbered from 1, its means by their names."""
        means = dict.fromkeys(self._entry.columns) | line["losses"]
        trained = [name for name in line["cohort"] if self._clients.size(name)]
        others = {name: value for name, value in line.items() if name not in ("round", "losses", "cohort")}
        skipped = len(line["cohort"]) - len(trained)
        return {"round": line["round"] + 1, **means, "cohort": trained, "skipped": skipped, **others}

    def state(self) -> tuple[Tree, dict[str, str]]:
        """What server and clients know."""
        return to_tree(self._state), {"told": json.dumps(self._counts)}

    def load_state(self, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
        """See :class:`~fedvpa.alignment.job.AlignmentJob`."""
        state = from_tree(tensors, self._algorithm.state_type)
        self._state, self._counts = state, json.loads(notes["told"])

    def finish(self) -> tuple[Policy, dict[str, Any]]:
        """The policy of the last round; rounds, the method's notes, bytes of the last round, rejections, language.

        With noise its ``privacy`` is among them.
        """
        server = self._state.server
        self._entry.settle(self._task, self._policy, server)
        notes = {"rounds": server.round, **self._entry.notes(self._task, server), **self._counts}
        look = look_at_language(self._policy, self._prompts, self.settings, self.seed) if self._prompts else None
        found = {} if self._report is None else {"data": self._report.to_dict()}
        if self._noise is not None and self._state.ledger is not None:
            found["privacy"] = self._noise.spent(self._state.ledger, self._clients.client_ids)
        return self._policy.eval(), notes | look_notes(look) | found


def fresh_policy(task: PolicyTask) -> Policy:
    """The base model with the initial adapter, the same on the server and on every node; no z enters it."""
    settings = with_template(task.settings, task.features)
    return new_policy(settings, task.features.model, None, task.seed, device=task.features.device)


def text_engine(settings: PolicyConfig, cohort: int | None) -> EngineConfig:
    """Who runs the clients of a policy, and how many a round asks."""
    own = settings.clients
    return EngineConfig(
        name=own.engine,
        cohort=cohort,
        codec=own.codec,
        dropout=own.dropout,
        secure_aggregation=own.secure_aggregation,
        secure_share=own.secure_share,
    )


def prompts_of(pairs: Mapping[str, Sequence[Pair]]) -> list[Text]:
    """The distinct prompts of clients' pairs."""
    return list(dict.fromkeys(pair.prompt for own in pairs.values() for pair in own))


def check_clients(method: str, task: PolicyTask, *, deployed: bool = False, private: bool = False) -> None:
    """Raise ConfigError if the clients of a policy cannot be run as they are configured, before anything is loaded.

    Args:
        method: Its name in ``POLICY_METHODS``.
        task: The run.
        deployed: Whether the clients are on the nodes of a deployment.
        private: Whether noise bounds every update.
    """
    entry, settings = POLICY_METHODS.get(method), task.settings
    engine, keys = text_engine(settings, entry.cohort(task)), text_keys(entry.cohort_key)
    check_secure(engine, settings.clients, keys=keys, deployed=deployed, private=private)
