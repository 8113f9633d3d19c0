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

from dataclasses import dataclass

import torch

from fedvpa.algorithms.base import ClientUpdate
from fedvpa.algorithms.client.firm_clients import FirmClients
from fedvpa.algorithms.client.firm_step import PromptDraws, Rule, mgda_rule
from fedvpa.algorithms.client.group_samples import Prompts
from fedvpa.algorithms.client.text_client import AdapterSetting, TextClient
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.firm_config import FirmConfig, preference_of, single_objective
from fedvpa.algorithms.server.aggregation import Averaged, weighted_delta
from fedvpa.core.tree import Tree, below


@dataclass(frozen=True)
class Firm(FirmClients):
    """FIRM and the yardsticks that differ from it in λ alone. See the module's docstring.

    Attributes:
        rho: ρ; None for λ = p throughout.
    """

    rho: float | None = None
    name: str = "firm"

    def init(self, setting: AdapterSetting, seed: int) -> Averaged:
        """The initial adapter, which all clients share."""
        return Averaged(setting.start)

    def client_update(
        self, received: Tree, held: TextClient[Prompts], private: Tree, draws: PromptDraws
    ) -> tuple[ClientUpdate, Tree]:
        """Local steps from the received adapter; without prompts, no change of weight 0."""
        before = below("params", received)
        done, after = self.train(held, before, draws, self._rule, self.target)
        weight = torch.tensor(float(len(held)))
        change = weighted_delta(self.moved(before), self.moved(after), weight)
        return self.update_of(change, done), {}

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
