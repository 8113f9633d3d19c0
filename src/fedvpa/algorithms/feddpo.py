"""FedDPO: clients run DPO on their own pairs; the server averages their LoRA adapters. One policy for all, without z.

Ye et al., "OpenFedLLM: Training Large Language Models on Decentralized Private Data via Federated Learning", KDD 2024,
arXiv 2402.06954: federated value alignment, "FedDPO" with FedAvg.

Each round, each client of the cohort starts from the server's adapter, takes a few steps of DPO with the frozen base as
its reference, and sends the change of the adapter back; the server adds the mean change, weighted by numbers of pairs.
No selector, no latent, no public prompts.

Deviations:

- **Averaging.** ``avg`` is theirs and inexact; ``ffa`` and ``svd`` are exact (``server/lora_averaging.py``).
- **Objective.** DPO with the two regularisers of every other method's DPO (``policy.sft_weight``,
  ``policy.language_weight``), so that methods differ in what they learn from, not in how they keep their language.
- **Learning rate.** The schedule of the central DPO, counted over rounds × local steps: warm-up and cosine to 0. Theirs
  is constant within a round and follows a cosine over rounds, from 5e-4 to 1e-6. Adam starts afresh for every client
  and round, as theirs does.
- **Limits.** What one client may change and weigh is bounded by ``policy.clients.clip_norm`` and ``max_weight``
  (``algorithms/server/limits.py``). ``svd``, whose updates are no sums, bounds weights alone.
- **Batches** are named by the seed and the client's id, never by position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, Holds, Plain
from fedvpa.algorithms.client.change_length import adam_part
from fedvpa.algorithms.client.client_examples import all_examples
from fedvpa.algorithms.client.step_means import ABSURD_LOSS, step_bounds, step_means, step_sums
from fedvpa.algorithms.client.text_client import AdapterSetting, ClientStream, TextClient
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.policy_method import ClientTexts, PolicyMethod, PolicyTask, server_rules
from fedvpa.algorithms.server.aggregation import Averaged, federated_average, shapes, weighted_delta
from fedvpa.algorithms.server.lora_averaging import exact_average, trained_factors
from fedvpa.algorithms.server.lora_residual import in_force, settle
from fedvpa.algorithms.server.validation import Bounds, Expected
from fedvpa.core import tree
from fedvpa.core.errors import ConfigError
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.data.schema import Pair
from fedvpa.policy.adapters import snapshot, training_only
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.dpo_trainer import DPOTrainer, Step, schedule
from fedvpa.policy.examples import Examples
from fedvpa.policy.policy import Policy

NAME = "feddpo"

ABSURD_FACTOR, ABSURD_WEIGHT = 1e6, 1e6
"""An entry of a LoRA factor, and a number of pairs, that no client has. Chosen by us."""

SENT = {
    "avg": "both factors of the LoRA adapters",
    "ffa": "one factor of the LoRA adapters (the other is the same for all and fixed)",
    "svd": "both factors of the LoRA adapters",
}
"""Rule of averaging → what a client sends in each round."""


@dataclass(frozen=True, repr=False, kw_only=True)
class FedDPOState(Averaged):
    """All that the server knows: the LoRA factors, under PEFT's names, and what ``svd`` leaves beside them.

    Attributes:
        residual: Layer → what its frozen weight has got on top, shape [outputs, inputs]; empty but for ``svd``.
    """

    residual: Tree = field(default_factory=dict)


@dataclass(frozen=True)
class FedDPO(Plain):
    """FedDPO. See the module's docstring.

    Attributes:
        settings: ``settings.feddpo`` has rounds, local steps, batch and averaging; the rest is DPO's.
        config: The server's rules; see :func:`~fedvpa.algorithms.policy_method.server_rules`.

    Raises:
        ConfigError: If ``svd`` is asked for with a rule other than the mean, or with a limit of changes.
    """

    settings: PolicyConfig
    config: MethodConfig
    holds: Holds = "texts"
    name: str = NAME
    reads_groups: bool = False

    def __post_init__(self) -> None:
        rules = self.config.server
        keys = {
            "policy.clients.rule": rules.rule != "mean",
            "policy.clients.clip_norm": isinstance(rules.clip_norm, float),
        }
        asked = [key for key, given in keys.items() if given]
        if self._exact and asked:
            raise ConfigError(
                f"policy.feddpo.averaging=svd needs each client's two factors by themselves, and {asked[0]} is about "
                "changes that add up.",
                fix=f"Choose policy.feddpo.averaging=avg or ffa, or leave {asked[0]} out.",
            )

    @property
    def _exact(self) -> bool:
        return self.settings.feddpo.averaging == "svd"

    @property
    def state_type(self) -> type[FedDPOState]:
        """Factors and residual."""
        return FedDPOState

    @property
    def rounds(self) -> int:
        """``policy.feddpo.rounds``."""
        return self.settings.feddpo.rounds

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """The one of DPO."""
        return {"policy.lr": self.settings.lr}

    def init(self, setting: AdapterSetting, seed: int) -> FedDPOState:
        """The initial adapter, which all clients share.

        Raises:
            ConfigError: If the adapter cannot be averaged so.
        """
        if self._exact and setting.experts:
            raise ConfigError(
                "The exact average of policy.feddpo.averaging=svd is defined for linear layers, and this base model "
                "has a mixture of experts.",
                fix="Choose avg or ffa.",
            )
        return FedDPOState(params=setting.start)

    def broadcast(self, state: FedDPOState, client_ids: Sequence[str]) -> Broadcast:
        """The adapter and, for ``svd``, the residual: a client keeps nothing from round to round."""
        return Broadcast(prefixed("params", state.params) | prefixed("residual", state.residual), {}, state.round)

    def expected(self, state: FedDPOState) -> Expected:
        """Changes of what clients train, or for ``svd`` the factors; losses of all local steps together."""
        own = self.settings
        sums = step_bounds(own.feddpo.steps, {"loss": ABSURD_LOSS, "accuracy": 1.0})
        if not self._exact:
            moved = shapes(self._moved(state.params))
            return Expected(moved, sums, parts=adam_part(own.lr, own.feddpo.steps, moved, self._rate(state.round)))
        factors = {name: Bounds(leaf.shape, -ABSURD_FACTOR, ABSURD_FACTOR) for name, leaf in state.params.items()}
        sent = {f"factors.{name}": bounds for name, bounds in factors.items()}
        return Expected({}, sums, {"weight": Bounds((), 0.0, ABSURD_WEIGHT), **sent})

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> ClientStream:
        """The names of the client's streams: order of batches and dropout."""
        return ClientStream(seed, client_id, broadcast.round)

    def client_update(
        self, received: Tree, held: TextClient[Examples], private: Tree, draws: ClientStream
    ) -> tuple[ClientUpdate, Tree]:
        """Steps of DPO from the received adapter; without pairs, no change of weight 0."""
        before, after, steps = below("params", received), below("params", received), list[Step]()
        moved = self._moved(before).keys()
        if len(held):
            with in_force(held.policy, before, below("residual", received)), training_only(held.policy, moved):
                steps = self._local(held.policy, held.data, draws)
            after = {name: leaf.cpu() for name, leaf in snapshot(held.policy).items()}
        weight = torch.tensor(float(len(held)))
        sums = step_sums({"loss": [step.loss for step in steps], "accuracy": [step.accuracy for step in steps]})
        if self._exact:
            return ClientUpdate({"weight": weight, **sums}, {"weight": weight, **prefixed("factors", after)}), {}
        return ClientUpdate(weighted_delta(self._moved(before), self._moved(after), weight) | sums), {}

    def server_update(self, state: FedDPOState, update: CohortUpdate) -> tuple[FedDPOState, dict[str, float]]:
        """The mean change, or for ``svd`` the best factors of the mean product; means over all local steps."""
        new = federated_average(state, update, self.config.server)
        if self._exact:
            new = self._averaged(new, update)
        return new, step_means(update)

    def _averaged(self, state: FedDPOState, update: CohortUpdate) -> FedDPOState:
        clients = [own for own in update.own.values() if own["weight"] > 0]
        if not clients:
            return state
        scale = self.settings.lora_alpha / self.settings.lora_rank
        weights = [float(own["weight"]) for own in clients]
        found = exact_average([below("factors", own) for own in clients], weights, scale)
        residual = tree.combine(torch.add, state.residual, found.residual) if state.residual else found.residual
        return replace(state, params=found.factors, residual=residual)

    def _moved(self, factors: Tree) -> Tree:
        """What clients train: for ``ffa`` B alone."""
        return trained_factors(factors, self.settings.feddpo.averaging)

    def _rate(self, round_: int) -> float:
        """The mean factor of the learning rate over the local steps of a round."""
        own = self.settings.feddpo
        steps = range(round_ * own.steps, (round_ + 1) * own.steps)
        return sum(schedule(step, own.rounds * own.steps, self.settings.warmup) for step in steps) / own.steps

    def _local(self, policy: Policy, examples: Examples, draws: ClientStream) -> list[Step]:
        own = self.settings.feddpo
        total = self.settings.model_copy(update={"steps": own.rounds * own.steps, "batch": own.batch})
        trainer = DPOTrainer(policy, total, draws.seed, NAME, draws.client_id)
        # The schedule counts local steps over all rounds; so do the client's epochs, whose unasked rounds go by.
        trainer.step = draws.round * own.steps
        return list(trainer.run(examples, own.steps))


class FedDPOMethod(PolicyMethod):
    """How a run makes FedDPO, and what becomes of it."""

    columns = ("loss", "accuracy")
    cohort_key = "policy.feddpo.cohort"
    trained = "ran DPO on their own pairs"

    def algorithm(self, task: PolicyTask) -> FedDPO:
        """See :class:`~fedvpa.algorithms.policy_method.PolicyMethod`."""
        return FedDPO(task.settings, server_rules(task.settings, task.settings.feddpo.rounds))

    def cohort(self, task: PolicyTask) -> int:
        """``policy.feddpo.cohort``."""
        return task.settings.feddpo.cohort

    def private_obstacle(self, task: PolicyTask) -> str:
        """Of ``svd``, which is no sum of what clients send."""
        if task.settings.feddpo.averaging != "svd":
            return ""
        return "policy.feddpo.averaging=svd multiplies the two factors of each client, and no sum over clients has that"

    def clients(
        self, task: PolicyTask, policy: Policy, pairs: Mapping[str, Sequence[Pair]], *, strict: bool
    ) -> ClientTexts[Examples]:
        """Their pairs, with the log-probabilities of the frozen base."""
        return all_examples(policy, pairs, strict=strict)

    def settle(self, task: PolicyTask, policy: Policy, state: FedDPOState) -> None:
        """Factors and residual."""
        settle(policy, state.params, state.residual)

    def notes(self, task: PolicyTask, state: FedDPOState) -> dict[str, Any]:
        """How adapters were averaged."""
        return {"averaging": task.settings.feddpo.averaging}

    def sent(self, settings: PolicyConfig) -> str:
        """One or both factors."""
        rule = settings.feddpo.averaging
        return (
            f"In each round {SENT[rule]} left, averaged by the rule {rule}. Each client ran DPO on its own pairs; no "
            "prompt and no response left."
        )


METHOD = FedDPOMethod()
