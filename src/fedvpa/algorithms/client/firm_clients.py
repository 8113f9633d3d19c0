"""What the clients of FIRM and of its yardsticks have in common: local steps, and what they say about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, Holds, Plain
from fedvpa.algorithms.client.change_length import adam_part
from fedvpa.algorithms.client.firm_step import LocalSteps, PromptDraws, Rule, draw_prompts, local_steps
from fedvpa.algorithms.client.group_samples import Prompts
from fedvpa.algorithms.client.text_client import TextClient
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.firm_config import FirmConfig
from fedvpa.algorithms.server.aggregation import Averaged, federated_average, shapes
from fedvpa.algorithms.server.lora_averaging import trained_factors
from fedvpa.algorithms.server.validation import Bounds, Expected, PrivatePart, Shape
from fedvpa.core.tree import Tree, prefixed
from fedvpa.objectives.multi_objective import disagreement
from fedvpa.policy.adapters import restore, snapshot, training_only
from fedvpa.privacy.mechanism import WHOLE

ABSURD = 1e9
"""A reward, a KL or a length that no training has which has not diverged. Chosen by us."""

BY_OBJECTIVE = ("reward.before", "reward.after", "lambda")
"""Statistics with a value for each objective, as means over the cohort."""


@dataclass(frozen=True)
class FirmClients(Plain):
    """The side of the clients.

    Attributes:
        firm: Hyper-parameters, with the names of the objectives.
        config: The server's rules.
        preference: p.
    """

    firm: FirmConfig
    config: MethodConfig
    preference: tuple[float, ...]
    holds: Holds = "texts"
    reads_groups: bool = False

    @property
    def objectives(self) -> tuple[str, ...]:
        """Their names."""
        return self.firm.objectives or ()

    @property
    def rounds(self) -> int:
        """``firm.rounds``."""
        return self.firm.rounds

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """The one of the local steps."""
        return {"firm.lr": self.firm.lr}

    @property
    def target(self) -> Float[Tensor, " objectives"]:
        """The preference p, as a tensor."""
        return torch.tensor(self.preference, dtype=torch.float64)

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> PromptDraws:
        """The prompts of each local step, and the names of the samples."""
        return draw_prompts(size, self.firm.steps, self.firm.prompts, seed, "firm", client_id, broadcast.round)

    @property
    def state_type(self) -> type[Any]:
        """The factors, and how many rounds are behind them."""
        return Averaged

    def broadcast(self, state: Any, client_ids: Sequence[str]) -> Broadcast:
        """All factors."""
        return Broadcast(prefixed("params", state.params), {}, state.round)

    def expected(self, state: Any) -> Expected:
        """The change of the factors, and what the local steps did."""
        moved = shapes(self.moved(state.params))
        return Expected(moved, self.statistics(), self.not_additive(), self.private_parts(moved))

    def private_parts(self, moved: Mapping[str, Shape]) -> dict[str, PrivatePart]:
        """Where the clip of the change starts under noise: see :mod:`fedvpa.algorithms.client.change_length`."""
        firm, taken = self.firm, self.firm.steps * self.firm.updates
        if firm.optimizer == "sgd":  # a step is η times a gradient that is no longer than its clip
            return {WHOLE: PrivatePart(start=firm.lr * taken * firm.clip_norm)}
        return adam_part(firm.lr, taken, moved)

    def server_update(self, state: Any, update: CohortUpdate) -> tuple[Any, dict[str, float]]:
        """The mean change; means over the cohort, weighted by numbers of prompts."""
        return federated_average(state, update, self.config.server), self.told(update)

    def moved(self, factors: Tree) -> Tree:
        """What clients train: for ``ffa`` B alone."""
        return trained_factors(factors, self.firm.averaging)

    def train(
        self, held: TextClient[Prompts], before: Tree, draws: PromptDraws, rule: Rule | None, fixed: Tensor
    ) -> tuple[LocalSteps | None, Tree]:
        """Take the local steps.

        Args:
            held: The client.
            before: The factors that it starts from.
            draws: From :meth:`draw`.
            rule: Where λ comes from; None for ``fixed``.
            fixed: λ where there is no rule.

        Returns:
            What the steps did, None without prompts; and the factors after them.
        """
        if not len(held):
            return None, before
        restore(held.policy, before)
        with training_only(held.policy, self.moved(before)):
            done = local_steps(held.policy, held.data, draws, self.firm, rule, fixed)
        return done, {name: leaf.cpu() for name, leaf in snapshot(held.policy).items()}

    def update_of(self, change: Tree, done: LocalSteps | None) -> ClientUpdate:
        """A change, from ``weighted_delta``, with what the local steps did; zeros without prompts."""
        several, weight = len(self.objectives), change["weight"]
        told = done or LocalSteps.none(several)
        sums = {
            "reward.before": weight * told.rewards[0],
            "reward.after": weight * told.rewards[-1],
            "lambda": weight * told.weights.mean(0),
            "kl": weight * told.kl.mean(),
            "vertex": weight * told.at_vertex.mean(),
            "missing": told.missing,
            "constant": told.constant,
        }
        # A client without prompts takes no part in any mean, and weighs as everybody is asked to.
        weights = self.target.float() if done is None else told.weights.mean(0)
        return ClientUpdate(change | sums, {"lambda": weights})

    def statistics(self) -> dict[str, Bounds]:
        """The bounds of the statistics in an update; nothing is learned from them, and with noise none leaves."""
        several, own = (len(self.objectives),), self.firm
        samples = float(own.steps * own.completions * own.prompts * len(self.objectives))
        return {
            "reward.before": Bounds(several, -ABSURD, ABSURD, per="weight", released="kept"),
            "reward.after": Bounds(several, -ABSURD, ABSURD, per="weight", released="kept"),
            "lambda": Bounds(several, 0.0, 1.0, per="weight", released="kept"),
            "kl": Bounds((), 0.0, ABSURD, per="weight", released="kept"),
            "vertex": Bounds((), 0.0, 1.0, per="weight", released="kept"),
            "missing": Bounds(several, 0.0, samples, released="kept"),
            "constant": Bounds(several, 0.0, float(own.steps * len(self.objectives)), released="kept"),
        }

    def not_additive(self) -> dict[str, Bounds]:
        """λ of the client, mean over its steps: by it the server sees how far clients disagree, and learns nothing."""
        return {"lambda": Bounds((len(self.objectives),), 0.0, 1.0, released="kept")}

    def told(self, update: CohortUpdate) -> dict[str, float]:
        """The means of a round by name; nothing where no client with prompts reported, or noise kept them back."""
        sums = update.sums
        if "kl" not in sums or not sums["weight"] > 0:
            return {}
        told: dict[str, float] = {}
        for place, name in enumerate(self.objectives):
            told |= {f"{key}.{name}": float(sums[key][place] / sums["weight"]) for key in BY_OBJECTIVE}
        told |= {key: float(sums[key] / sums["weight"]) for key in ("kl", "vertex")}
        told |= {key: float(sums[key].sum()) for key in ("missing", "constant")}
        weights = [own["lambda"] for own in update.own.values()]
        return told | ({"disagreement": disagreement(torch.stack(weights))} if weights else {})
