"""Rewarded soups: one adapter per objective, trained apart, and weights interpolated by the preference.

Ramé et al., "Rewarded soups: towards Pareto-optimal alignment by interpolating weights fine-tuned on diverse rewards",
NeurIPS 2023, arXiv 2306.04488; here each adapter is trained federated. A new preference needs no further training,
which makes it the strongest cheap yardstick of FIRM; its training costs M times the samples and the bytes.

Deviations:

- **Samples.** Each adapter is trained by the policy gradients of FIRM on one objective.
- **Interpolation.** The changes of the weights are added, Σ_j p_j·B_j·A_j, as theirs are: LoRA factors side by side, so
  the adapter that results has M times the rank. Means of the factors themselves would mix B_j with A_k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fedvpa.algorithms.base import ClientUpdate
from fedvpa.algorithms.client.firm_clients import FirmClients
from fedvpa.algorithms.client.firm_step import LocalSteps, PromptDraws
from fedvpa.algorithms.client.group_samples import Prompts
from fedvpa.algorithms.client.text_client import AdapterSetting, TextClient
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.firm_config import FirmConfig, preference_of
from fedvpa.algorithms.server.aggregation import Averaged, weighted_delta
from fedvpa.algorithms.server.lora_averaging import A_SUFFIX, B_SUFFIX, layers
from fedvpa.core.tree import Tree, below, prefixed


@dataclass(frozen=True)
class Soups(FirmClients):
    """Rewarded soups. The parameters are ``objective0.<factor>``, ``objective1.<factor>`` and so on."""

    name: str = "soups"

    def init(self, setting: AdapterSetting, seed: int) -> Averaged:
        """The same initial adapter for every objective: interpolation needs a common start."""
        adapters = (prefixed(_name(place), setting.start) for place in range(len(self.objectives)))
        return Averaged({name: leaf for adapter in adapters for name, leaf in adapter.items()})

    def client_update(
        self, received: Tree, held: TextClient[Prompts], private: Tree, draws: PromptDraws
    ) -> tuple[ClientUpdate, Tree]:
        """Local steps of each adapter on its objective, all on the same prompts."""
        before, after, done = below("params", received), dict[str, torch.Tensor](), list[LocalSteps]()
        for place, goal in enumerate(torch.eye(len(self.objectives))):
            steps, factors = self.train(held, below(_name(place), before), draws, None, goal)
            after |= prefixed(_name(place), factors)
            done += [] if steps is None else [steps]
        change = weighted_delta(self.moved(before), self.moved(after), torch.tensor(float(len(held))))
        return self.update_of(change, _together(done) if done else None), {}


def _name(place: int) -> str:
    return f"objective{place}"


def _together(done: Sequence[LocalSteps]) -> LocalSteps:
    """What the adapters' steps did: the reward of each is its own objective's, and λ counts all alike."""
    count = len(done)
    return LocalSteps(
        torch.full_like(done[0].weights, 1 / count),
        torch.stack([steps.rewards[:, place] for place, steps in enumerate(done)], 1),
        torch.stack([steps.kl for steps in done]).mean(0),
        torch.stack([steps.missing for steps in done]).sum(0),
        torch.stack([steps.constant for steps in done]).sum(0),
    )


def interpolated(params: Mapping[str, torch.Tensor], preference: Sequence[float]) -> Tree:
    """The adapter of the weights Σ_j p_j·B_j·A_j, of M times the rank and the same scale α/r.

    Args:
        params: Those of the state.
        preference: p.
    """
    adapters = [below(_name(place), params) for place in range(len(preference))]
    found: Tree = {}
    for layer in layers(adapters[0]):
        found[layer + A_SUFFIX] = torch.cat([one[layer + A_SUFFIX] for one in adapters])
        found[layer + B_SUFFIX] = torch.cat(
            [share * one[layer + B_SUFFIX] for share, one in zip(preference, adapters, strict=True)], 1
        )
    return found


def make_soups(config: MethodConfig, firm: FirmConfig) -> Soups:
    """Rewarded soups.

    Raises:
        ConfigError: If preference and objectives do not fit.
    """
    return Soups(firm, config, preference_of(firm, firm.objectives or ()))
