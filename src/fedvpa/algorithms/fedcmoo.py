"""FedCMOO: the server weighs the objectives, from the gradients of its clients.

Askin, Sharma, Joshi and Joe-Wong, "Federated Communication-Efficient Multi-Objective Optimization", AISTATS 2025, arXiv
2410.16398. A round asks its cohort twice. First every client sends one gradient per objective, on one minibatch, at the
weights of the round's start; the server forms the Gram matrix of their means and moves its weights w a little from
those of the round before (:func:`~fedvpa.objectives.multi_objective.fedcmoo_weights`). Then every client takes its
local steps on Σ_j w_j·L_j, and the server averages.

Deviations:

- **No compression.** The authors send a randomised singular value decomposition of the gradients, of about one gradient
  in all. A LoRA adapter is small, so all M gradients are sent and the Gram matrix is exact. Their bytes are counted.
- **Objective and samples** are those of FIRM: policy gradients with the KL outside the mixture.
- **Preference.** The published method has none; here the first round starts from p. Later rounds forget it slowly.
- **First local step.** Its samples are drawn again under the names of the first request, at the same weights, so its
  gradients are the ones already sent; a client need not keep them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate
from fedvpa.algorithms.client.firm_clients import ABSURD, FirmClients
from fedvpa.algorithms.client.firm_step import GradientBatch, PromptDraws, sample_step
from fedvpa.algorithms.client.group_samples import Prompts
from fedvpa.algorithms.client.text_client import AdapterSetting, TextClient
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.firm_config import FirmConfig, preference_of
from fedvpa.algorithms.server.aggregation import Averaged, federated_average, shapes, weighted_delta
from fedvpa.algorithms.server.validation import Bounds, Expected
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.objectives.multi_objective import fedcmoo_weights, gram
from fedvpa.policy.adapters import restore, training_only

GRADIENT = "gradient"
"""What begins the names of the gradients in an update: ``gradient.0.<weight>`` for the first objective."""


@dataclass(frozen=True, repr=False, kw_only=True)
class FedCMOOState(Averaged):
    """The adapter, the weights of the objectives, and what is asked for next.

    Attributes:
        weights: w, shape [M].
        weighed: Whether the weights of this round are there, so that clients are to train.
    """

    weights: Tensor = field(default_factory=lambda: torch.zeros(0))
    weighed: bool = False


@dataclass(frozen=True)
class FedCMOO(FirmClients):
    """FedCMOO. See the module's docstring."""

    name: str = "fedcmoo"

    @property
    def state_type(self) -> type[FedCMOOState]:
        """With the weights of the objectives."""
        return FedCMOOState

    def init(self, setting: AdapterSetting, seed: int) -> FedCMOOState:
        """The initial adapter, and the preference as weights."""
        return FedCMOOState(params=setting.start, weights=self.target)

    def broadcast(self, state: FedCMOOState, client_ids: Sequence[str]) -> Broadcast:
        """The adapter, the weights, and what is asked for."""
        asked = {"weights": state.weights.float(), "weighed": torch.tensor(float(state.weighed))}
        return Broadcast(prefixed("params", state.params) | asked, {}, state.round)

    def expected(self, state: FedCMOOState) -> Expected:
        """First the gradients, then what FIRM's clients send."""
        moved = shapes(self.moved(state.params))
        if state.weighed:
            return Expected(moved, self.statistics(), self.not_additive())
        gradients = {
            f"{GRADIENT}.{place}.{name}": Bounds(shape, -ABSURD, ABSURD, per="weight")
            for place in range(len(self.objectives))
            for name, shape in moved.items()
        }
        return Expected({}, gradients)

    def client_update(
        self, received: Tree, held: TextClient[Prompts], private: Tree, draws: PromptDraws
    ) -> tuple[ClientUpdate, Tree]:
        """Gradients at the received adapter, or local steps from it."""
        before, weight = below("params", received), torch.tensor(float(len(held)))
        if not received["weighed"] > 0:
            gradients = self._gradients(held, before, draws)
            return ClientUpdate({"weight": weight} | {name: weight * leaf for name, leaf in gradients.items()}), {}
        done, after = self.train(held, before, draws, None, received["weights"])
        return self.update_of(weighted_delta(self.moved(before), self.moved(after), weight), done), {}

    def server_update(self, state: FedCMOOState, update: CohortUpdate) -> tuple[FedCMOOState, dict[str, float]]:
        """New weights from the gradients; then the mean change."""
        if state.weighed:
            new = federated_average(state, update, self.config.server)
            return replace(new, weighed=False), self.told(update)
        if not update.sums or not update.sums["weight"] > 0:
            return replace(state, round=state.round + 1), {}
        rows = [below(f"{GRADIENT}.{place}", update.sums) for place in range(len(self.objectives))]
        means = torch.stack([torch.cat([leaf.flatten() for leaf in row.values()]) for row in rows])
        weights = fedcmoo_weights(gram(means / update.sums["weight"]), state.weights)
        return replace(state, weights=weights, weighed=True), {}

    def _gradients(self, held: TextClient[Prompts], before: Tree, draws: PromptDraws) -> Tree:
        """One gradient per objective, on the samples of the first local step."""
        moved = self.moved(before)
        sizes = [leaf.numel() for leaf in moved.values()]
        found = torch.zeros(len(self.objectives), sum(sizes))
        if len(held):
            restore(held.policy, before)
            with training_only(held.policy, moved):
                samples = sample_step(held.policy, held.data, draws.rows[0], self.firm, draws, 0)
                batch = GradientBatch(held.policy, samples, self.firm.clip, self.firm.micro_batch)
                found = batch.gradients()[0].cpu()
        return {
            f"{GRADIENT}.{place}.{name}": part.view_as(leaf)
            for place, row in enumerate(found)
            for (name, leaf), part in zip(moved.items(), row.split(sizes), strict=True)
        }


def make_fedcmoo(config: MethodConfig, firm: FirmConfig) -> FedCMOO:
    """FedCMOO.

    Raises:
        ConfigError: If preference and objectives do not fit.
    """
    return FedCMOO(firm, config, preference_of(firm, firm.objectives or ()))
