"""FIRM, our reading: every client weighs the objectives itself, by regularised MGDA, and sends one adapter.

Nourzad, Roknilamouki, Ekici, Liu and Shroff, arXiv 2511.16992. Only its abstract was public when this was written, and
no code: each client solves a regularised multi-objective problem by itself, which mitigates the drift that comes from
clients disagreeing; it sends one set of adapted parameters; a preference over the objectives traces the front. All
else here is our reading, and none of the paper's numbers is printed anywhere.

In a local step the client samples G responses to each of some of its own prompts from the current policy, scores them
under M objectives, and takes for each objective the gradient g_j of the clipped surrogate with group-relative
advantages (:mod:`fedvpa.objectives.policy_gradient`). With Ĝ the Gram matrix of the g_j at one common scale,

    λ = argmin over the simplex of ½·λᵀĜλ + (ρ/2)·‖λ − p‖²,     θ ← θ + η·(Σ_j λ_j g_j − κ·∇KL).

The server averages the LoRA factors, weighted by numbers of prompts.

The same clients with other weights are yardsticks: ``mgda`` has ρ = 0, ``scalar`` λ = p, ``single`` one objective.

Choices of ours that the abstract leaves open: one critic-free set of samples for all objectives; rewards whitened over
the batch; the KL once, outside the mixture; an optimiser that starts afresh for every client and round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate
from fedvpa.algorithms.client.firm_clients import FirmClients
from fedvpa.algorithms.client.firm_step import PromptDraws, Rule, mgda_rule
from fedvpa.algorithms.client.group_samples import Prompts
from fedvpa.algorithms.client.text_client import AdapterSetting, TextClient
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.firm_config import FirmConfig, preference_of, single_objective
from fedvpa.algorithms.server.aggregation import Averaged, federated_average, shapes, weighted_delta
from fedvpa.algorithms.server.validation import Expected
from fedvpa.core.tree import Tree, below, prefixed


@dataclass(frozen=True)
class Firm(FirmClients):
    """FIRM and the yardsticks that differ from it in λ alone. See the module's docstring.

    Attributes:
        rho: ρ; None for λ = p throughout.
    """

    rho: float | None = None
    name: str = "firm"

    @property
    def state_type(self) -> type[Averaged]:
        """The factors, and how many rounds are behind them."""
        return Averaged

    def init(self, setting: AdapterSetting, seed: int) -> Averaged:
        """The initial adapter, which all clients share."""
        return Averaged(setting.start)

    def broadcast(self, state: Averaged, client_ids: Sequence[str]) -> Broadcast:
        """The adapter."""
        return Broadcast(prefixed("params", state.params), {}, state.round)

    def expected(self, state: Averaged) -> Expected:
        """The change of the factors, and what the local steps did."""
        return Expected(shapes(self.moved(state.params)), self.statistics(), self.not_additive())

    def client_update(
        self, received: Tree, held: TextClient[Prompts], private: Tree, draws: PromptDraws
    ) -> tuple[ClientUpdate, Tree]:
        """Local steps from the received adapter; without prompts, no change of weight 0."""
        before = below("params", received)
        done, after = self.train(held, before, draws, self._rule, self.target)
        weight = torch.tensor(float(len(held)))
        change = weighted_delta(self.moved(before), self.moved(after), weight)
        return self.update_of(change, done), {}

    def server_update(self, state: Averaged, update: CohortUpdate) -> tuple[Averaged, dict[str, float]]:
        """The mean change; means over the cohort, weighted by numbers of prompts."""
        return federated_average(state, update, self.config.server), self.told(update)

    @property
    def _rule(self) -> Rule | None:
        return None if self.rho is None else mgda_rule(self.target, self.rho)


def make_firm(name: str, config: MethodConfig, firm: FirmConfig) -> Firm:
    """``firm``, ``mgda``, ``scalar`` or ``single``.

    Args:
        name: One of them.
        config: The server's rules.
        firm: With the names of the objectives.

    Raises:
        ConfigError: If preference and objectives do not fit.
    """
    objectives = firm.objectives or ()
    preference = preference_of(firm, objectives)
    if name == "single":
        chosen = single_objective(preference, objectives)
        preference = tuple(float(place == chosen) for place in range(len(objectives)))
    rho = {"firm": firm.rho, "mgda": 0.0, "scalar": None, "single": None}[name]
    return Firm(firm, config, preference, rho=rho, name=name)
