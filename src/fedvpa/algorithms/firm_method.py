"""How a run makes FIRM and its yardsticks: objectives, prompts of the clients, and what becomes of the adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedvpa.algorithms.client.group_samples import Prompts
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.fedcmoo import FedCMOO, make_fedcmoo
from fedvpa.algorithms.firm import Firm, make_firm
from fedvpa.algorithms.firm_config import FirmConfig
from fedvpa.algorithms.policy_method import ClientTexts, PolicyMethod, PolicyTask, server_rules
from fedvpa.algorithms.server.aggregation import Averaged
from fedvpa.algorithms.soups import Soups, interpolated, make_soups
from fedvpa.core.errors import ConfigError
from fedvpa.core.progress import say
from fedvpa.core.short_repr import short_repr
from fedvpa.data.report import DataReport
from fedvpa.data.schema import Pair, Text
from fedvpa.policy.adapters import put_adapter
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.policy import Policy
from fedvpa.policy.sampling import Sampling
from fedvpa.rewards.objective_names import SELECTOR, ObjectiveName, default_objectives, parse_objectives
from fedvpa.rewards.objectives import Objective
from fedvpa.rewards.probe import PROBE_PROMPTS, probe

PROBE_SAMPLES = 4
"""Samples of the base policy for each prompt of the probe; see :data:`fedvpa.rewards.probe.PROBE_PROMPTS`."""

Several = Firm | FedCMOO | Soups
"""What they make."""

Maker = Callable[[MethodConfig, FirmConfig], Several]


@dataclass(frozen=True, repr=False)
class FirmMethod(PolicyMethod):
    """``firm`` or one of its yardsticks.

    Attributes:
        name: Of the method.
        make: Makes its algorithm of the server's rules and a section with the names of the objectives.
        uploads: What its clients send in a round, as a clause.
        obstacle: Why noise cannot hide a client; empty if it can.
        requests: How many sums a round asks for.
    """

    name: str
    make: Maker
    uploads: str = "the change of the LoRA adapter"
    obstacle: str = ""
    requests: int = 1

    __repr__ = short_repr
    columns = ("kl", "vertex", "disagreement", "drift", "missing", "constant")
    trained = "trained by policy gradients on responses that they sampled to their own prompts"

    def algorithm(self, task: PolicyTask) -> Several:
        """See :class:`~fedvpa.algorithms.policy_method.PolicyMethod`."""
        if task.settings.lora_dropout:
            raise ConfigError(
                f"policy.lora_dropout={task.settings.lora_dropout:g} makes another policy at every step, and the "
                f"samples of {self.name!r} come from the policy without it.",
                fix="Set policy.lora_dropout=0.",
            )
        firm = task.config.firm
        named = firm.model_copy(update={"objectives": tuple(map(str, objective_names(task)))})
        return self.make(server_rules(task.settings, firm.rounds), named)

    def cohort(self, task: PolicyTask) -> int:
        """``firm.cohort``."""
        return task.config.firm.cohort

    def reads_selector(self, task: PolicyTask) -> bool:
        """Whether one of the objectives is a prototype of it."""
        return any(name.kind == SELECTOR for name in objective_names(task))

    def check(self, task: PolicyTask, policy: Callable[[], Policy], prompts: Sequence[Text]) -> None:
        """Probe the objectives on samples of the base policy.

        Raises:
            DataError: If an objective does not tell samples apart.
        """
        if prompts:
            self._probe(task, policy(), task.objectives(objective_names(task)), prompts)

    def private_obstacle(self, task: PolicyTask) -> str:
        """That of the method, whatever the settings."""
        return self.obstacle

    def clients(
        self, task: PolicyTask, policy: Policy, pairs: Mapping[str, Sequence[Pair]], *, strict: bool
    ) -> ClientTexts[Prompts]:
        """The prompts of their pairs."""
        objectives = task.objectives(objective_names(task))
        own = {client: list(dict.fromkeys(pair.prompt for pair in pairs_)) for client, pairs_ in pairs.items()}
        distinct = list(dict.fromkeys(text for texts in own.values() for text in texts))
        ids = dict(zip(distinct, policy.tokenizer.prompts(distinct), strict=True))
        held = {client: Prompts(texts, [ids[text] for text in texts], objectives) for client, texts in own.items()}
        return ClientTexts(held, DataReport(sum(map(len, pairs.values())), strict))

    def settle(self, task: PolicyTask, policy: Policy, state: Averaged) -> None:
        """The last adapter; of the soups, their interpolation."""
        factors = state.params
        if self.name == "soups":
            factors = interpolated(factors, self.algorithm(task).preference)
        put_adapter(policy, factors)

    def notes(self, task: PolicyTask, state: Averaged) -> dict[str, Any]:
        """Objectives, preference, and how adapters were averaged."""
        algorithm, firm = self.algorithm(task), task.config.firm
        return {
            "objectives": list(algorithm.objectives),
            "preference": list(algorithm.preference),
            "averaging": firm.averaging,
            **({"rho": firm.rho} if self.name == "firm" else {}),
        }

    def sent(self, settings: PolicyConfig) -> str:
        """The adapter, means of rewards, λ."""
        return (
            f"In each round {self.uploads} left, with the mean reward of the client's samples under each objective, "
            "its weights of the objectives, and the KL. Each client sampled and scored responses to its own prompts; "
            "no prompt and no response left."
        )

    def _probe(self, task: PolicyTask, policy: Policy, objectives: Sequence[Objective], texts: Sequence[Text]) -> None:
        chosen = list(texts[:: max(1, len(texts) // PROBE_PROMPTS)][:PROBE_PROMPTS])
        firm = task.config.firm

        def sample(asked: Sequence[Text]) -> list[list[str]]:
            ids = [row for row in policy.tokenizer.prompts(asked) for _ in range(PROBE_SAMPLES)]
            found = policy.sample(ids, None, Sampling(max_new_tokens=firm.max_new_tokens), task.seed, "probe")
            said = [policy.tokenizer.text(row) for row in found]
            return [said[start : start + PROBE_SAMPLES] for start in range(0, len(said), PROBE_SAMPLES)]

        for found in probe(objectives, chosen, sample):
            missing = f", {found.missing} of them without a score ({found.reason})" if found.missing else ""
            say(
                f"{found.name}: {found.mean:.3g} on {len(chosen) * PROBE_SAMPLES} samples of the base policy{missing}, "
                f"with a deviation of {found.spread:.2g} among those of one prompt"
            )


def objective_names(task: PolicyTask) -> tuple[ObjectiveName, ...]:
    """The objectives that a run asks for, or those of its data.

    Raises:
        ConfigError: If they are named wrongly.
    """
    named = task.config.firm.objectives
    if named is not None:
        return parse_objectives(named, "configuration key 'firm.objectives'")
    of_groups = default_objectives(task.population, 0)
    if of_groups or task.selector is None:
        return of_groups
    return default_objectives(None, len(task.selector().selector.prototypes))


def _firm(name: str) -> FirmMethod:
    return FirmMethod(name, lambda config, firm: make_firm(name, config, firm))


FIRM, MGDA, SCALAR, SINGLE = _firm("firm"), _firm("mgda"), _firm("scalar"), _firm("single")
FEDCMOO = FirmMethod(
    "fedcmoo",
    make_fedcmoo,
    "first one gradient for each objective and then the change of the LoRA adapter",
    "its server weighs the objectives by the inner products of summed gradients, and noise on the n weights of an "
    "adapter adds n times its variance to each of them, more than the clipped gradients themselves",
    requests=2,
)
SOUPS = FirmMethod("soups", make_soups, "the changes of one LoRA adapter for each objective")
