"""Language models that choose between two responses, and what clients hold for them; see ``fedbiscuit_lora.py``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core import tree
from fedvpa.core.short_repr import short_repr
from fedvpa.policy.adapters import restore
from fedvpa.policy.policy import Policy
from fedvpa.rewards.choice import Choices, Template, both_log_odds, margins, mean_loss
from fedvpa.selector.vote import majority_margins


@dataclass(frozen=True, repr=False)
class ClientChoices:
    """What a client holds: its pairs, in both orders, and how they are put to the model."""

    template: Template
    choices: Choices

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.choices)


@dataclass(frozen=True, repr=False)
class Voters:
    """The U selectors, that vote.

    Attributes:
        policy: Where they take turns; its own adapter is of no account.
        template: What they read.
        selectors: Their adapters.
        base_samples: Most samples of the base policy that one response is compared with.
    """

    policy: Policy
    template: Template
    selectors: tuple[tree.Tree, ...]
    base_samples: int

    __repr__ = short_repr

    def margins(self, choices: Choices) -> Float[Tensor, " pairs"]:
        """The vote on each pair, in nats; positive where the preferred response wins. Antisymmetric."""
        return majority_margins(torch.stack([margins(odds) for odds in self._odds(choices)]))

    def losses(self, choices: Choices) -> Float[Tensor, " u"]:
        """The mean loss of each selector; log 2, a coin's, where there is no pair."""
        return torch.tensor([mean_loss(odds, empty=math.log(2)) for odds in self._odds(choices)])

    def _odds(self, choices: Choices) -> Iterator[Tensor]:
        for weights in self.selectors:
            restore(self.policy, weights)
            yield both_log_odds(self.policy, self.template, choices)
