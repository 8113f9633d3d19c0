"""What a method is whose clients train the policy, beside its algorithm: how a run makes it and what becomes of it.

One class for each method, and one object of it in the registry ``algorithms/registry.py: POLICY_METHODS``. With it,
``fedvpa align RUN --method NAME`` and ``fedvpa compare --stage policy --methods NAME`` train the method. Rounds,
engines, checkpoints, rules against faulty updates and files are not its business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from fedvpa.algorithms.base import Algorithm
from fedvpa.algorithms.config import BiscuitConfig, MethodConfig, ServerConfig
from fedvpa.core.rules import RulesConfig
from fedvpa.core.short_repr import short_repr
from fedvpa.data.report import DataReport
from fedvpa.data.schema import Pair, Text
from fedvpa.features.config import FeatureConfig
from fedvpa.policy.adapters import restore
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.policy import Policy
from fedvpa.rewards.objective_names import SELECTOR, ObjectiveName
from fedvpa.rewards.objectives import Objective, ResponseReader, make_objectives

DataT = TypeVar("DataT", bound=Sized)


@dataclass(frozen=True, repr=False)
class PolicyTask:
    """What a method may read of a run; the same on the server and on every node.

    Attributes:
        settings: Stage 2.
        config: The sections that methods of stage 1 read.
        features: Names the base model, if ``settings`` does not, and the device.
        seed: The run's seed.
        population: The bundled world's population; None for other data.
        selector: Opens the run's selector; None where there is none.
    """

    settings: PolicyConfig
    config: MethodConfig
    features: FeatureConfig
    seed: int
    population: str | None = None
    selector: Callable[[], ResponseReader] | None = None

    __repr__ = short_repr

    @cached_property
    def _made(self) -> dict[tuple[ObjectiveName, ...], tuple[Objective, ...]]:
        return {}

    def objectives(self, names: Sequence[ObjectiveName]) -> tuple[Objective, ...]:
        """Rewards by name, made once, since some of them load a language model. Raises as ``make_objectives``."""
        key = tuple(names)
        if key not in self._made:
            read = any(name.kind == SELECTOR for name in names)
            self._made[key] = make_objectives(names, selector=self.selector() if self.selector and read else None)
        return self._made[key]


@dataclass(frozen=True, repr=False)
class ClientTexts(Generic[DataT]):
    """What clients hold.

    Attributes:
        data: Client id → what it trains on; the length is its number of pairs or prompts.
        report: What of their pairs was left out.
    """

    data: Mapping[str, DataT]
    report: DataReport = field(default_factory=DataReport)

    __repr__ = short_repr


class PolicyMethod(ABC):
    """One method whose clients train the policy."""

    columns: tuple[str, ...] = ("loss",)
    """The means that every line of ``history.jsonl`` has; null where no client reported."""

    cohort_key: str = "cohort"
    """The configuration key of :meth:`cohort`, for messages."""

    trained: str = "trained one LoRA adapter on their own pairs"
    """What the clients did, for the model card."""

    requests: int = 1
    """How many sums a round asks for. With noise each is a release of its own, and counted."""

    @abstractmethod
    def algorithm(self, task: PolicyTask) -> Algorithm[Any, Any]:
        """The method under the settings of a run.

        Raises:
            ConfigError: If it has something against them; said before anything is loaded.
        """

    @abstractmethod
    def cohort(self, task: PolicyTask) -> int:
        """How many clients a round asks."""

    @abstractmethod
    def clients(
        self, task: PolicyTask, policy: Policy, pairs: Mapping[str, Sequence[Pair]], *, strict: bool
    ) -> ClientTexts[Any]:
        """What clients train on; on a node of a deployment, those of the node.

        Args:
            task: The run.
            policy: The base model with its initial adapter: has the tokenizer, and the reference policy.
            pairs: Client id → the pairs that it may train a policy on.
            strict: Whether a pair that is left out is an error (``data.strict``).
        """

    def check(self, task: PolicyTask, policy: Callable[[], Policy], prompts: Sequence[Text]) -> None:
        """Refuse what would come to nothing and shows only when a model is asked; once, before the first round.

        On the nodes of a deployment this is done before a node introduces itself. By default nothing is checked.

        Args:
            task: The run.
            policy: Gives what :meth:`clients` is given; loads it, so a method asks only if it needs it.
            prompts: Distinct prompts: of the clients' pairs, or public ones where sums are noised, since nothing may
                then be said of what clients hold.

        Raises:
            DataError: If nothing could be learnt.
        """
        return

    def private_obstacle(self, task: PolicyTask) -> str:
        """Why no noise on sums can hide a client of this method, as a clause; empty if it can."""
        return ""

    def reads_selector(self, task: PolicyTask) -> bool:
        """Whether it reads the run's selector, so that a checkpoint is gone on with under the same one alone."""
        return False

    def settle(self, task: PolicyTask, policy: Policy, state: Any) -> None:
        """Put the result into the policy, for good. By default its adapter is ``state.params``."""
        restore(policy, state.params)

    def notes(self, task: PolicyTask, state: Any) -> dict[str, Any]:
        """What ``metrics.json`` says about the result, beside what it says of every method."""
        return {}

    def sent(self, settings: PolicyConfig) -> str:
        """What left the users' devices, in sentences."""
        return "In each round what the method's clients send left."


def server_rules(settings: PolicyConfig, rounds: int, biscuit: BiscuitConfig | None = None) -> MethodConfig:
    """What the rounds read of an algorithm's configuration: how many, and ``policy.clients``' rules of aggregation.

    Args:
        settings: Stage 2.
        rounds: Rounds in all.
        biscuit: The section of ``fedbiscuit_lora``.
    """
    rules = settings.clients.model_dump(include=set(RulesConfig.model_fields))
    server = ServerConfig(rounds=rounds, average_tail=0.0, **rules)
    return MethodConfig(server=server, biscuit=biscuit or BiscuitConfig())
