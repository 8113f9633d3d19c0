"""Federated training of the head at latents that are known beforehand: what the yardsticks share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, FeatureSetting, Plain
from fedvpa.algorithms.client.draws import Draws, draw
from fedvpa.algorithms.client.local_training import StepMeans, train_locally
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.server.aggregation import (
    Averaged,
    federated_average,
    loss_bounds,
    mean_losses,
    shapes,
    weighted_delta,
)
from fedvpa.algorithms.server.validation import Expected
from fedvpa.core.seeds import torch_generator
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.objectives.bradley_terry import choice_log_likelihood, weighted_mean
from fedvpa.selector.config import InferenceConfig
from fedvpa.selector.heads import HEADS
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.prototypes import init_prototypes
from fedvpa.selector.selector import Selector


@dataclass(frozen=True)
class FixedLatent(Plain):
    """FedAvg of one head at fixed latents: z = 0 (``global``), or the true group's prototype (``oracle``)."""

    config: MethodConfig
    name: str
    reads_groups: bool
    inference: InferenceConfig = field(default_factory=InferenceConfig)

    @property
    def state_type(self) -> type[Averaged]:
        """The weights and their mean."""
        return Averaged

    @property
    def personal(self) -> bool:
        """Never: latents are known beforehand."""
        return False

    @property
    def has_prototypes(self) -> bool:
        """Whether there is one for each true group."""
        return self.reads_groups

    def init(self, setting: FeatureSetting, seed: int) -> Averaged:
        """A random head; a prototype for each true group if groups are read, else z = 0."""
        shape = self.config.selector
        head = HEADS[shape.head].init(setting.dimension, shape, torch_generator(seed, "init"))
        if self.reads_groups:
            generator = torch_generator(seed, "init", "prototypes")
            prototypes = init_prototypes(len(setting.groups), shape.latent, shape.prototype_scale, generator)
        else:
            prototypes = torch.zeros(1, shape.latent)
        return Averaged(prefixed("head", head) | {"prototypes": prototypes})

    def broadcast(self, state: Averaged, client_ids: Sequence[str]) -> Broadcast:
        """The weights."""
        return Broadcast(prefixed("params", state.params), {}, state.round)

    def expected(self, state: Averaged) -> Expected:
        """Changes of all weights, and the loss."""
        return Expected(shapes(state.params), loss_bounds("reconstruction"))

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> Draws:
        """The same folds as every method."""
        dropout = self.config.selector.base_dropout
        return draw(seed, broadcast.round, client_id, size, self.config.local, base_dropout=dropout)

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """E local steps on the same targets as every method."""
        before = below("params", received)
        head_functions = HEADS[self.config.selector.head]
        means = StepMeans(self.config.local.steps)

        def loss(weights: Tree, step: int) -> Tensor:
            target = held.take(draws.target[..., step, :], draws.target_present[..., step, :])
            latent = weights["prototypes"]
            if self.reads_groups:
                latent = private["group"].unsqueeze(-2) @ latent
            margins = head_functions.margins(below("head", weights), target, latent, draws.base_keep[..., step, :])
            value = -weighted_mean(choice_log_likelihood(margins), target.weight.unsqueeze(-2)).squeeze(-1)
            means.add(reconstruction=value)
            return value

        after = train_locally(before, loss, self.config.local, frozen=lambda name: name == "prototypes")
        return ClientUpdate(weighted_delta(before, after, held.count) | means.losses(held.count)), {}

    def server_update(self, state: Averaged, update: CohortUpdate) -> tuple[Averaged, dict[str, float]]:
        """Average the weights."""
        return federated_average(state, update, self.config.server), mean_losses(update)

    def selector(self, state: Averaged) -> Selector:
        """The selector with the averaged weights."""
        count = len(state.params["prototypes"])
        uniform = torch.full((count,), -math.log(count))
        return Selector(self.config.selector, self.inference, state.final, uniform, torch.ones(()))
