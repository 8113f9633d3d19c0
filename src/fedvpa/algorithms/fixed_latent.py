"""Federated training of the head at latents that are known beforehand: what the yardsticks share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedvpa.algorithms.aggregation import federated_average, mean_losses, weighted_delta, zero_evidence
from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, NothingPrivate, ServerState
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.draws import Draws, draw
from fedvpa.algorithms.local_training import train_locally
from fedvpa.core.seeds import torch_generator
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.objectives.bradley_terry import choice_log_likelihood, weighted_mean
from fedvpa.selector.heads import HEADS
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.prototypes import init_prototypes
from fedvpa.selector.selector import InferenceConfig, Selector


@dataclass(frozen=True)
class FixedLatent(NothingPrivate):
    """FedAvg of one head at fixed latents: z = 0 (``global``), or the true group's prototype (``oracle``)."""

    config: MethodConfig
    name: str
    reads_groups: bool
    inference: InferenceConfig = field(default_factory=InferenceConfig)

    @property
    def personal(self) -> bool:
        """Never: latents are known beforehand."""
        return False

    @property
    def has_prototypes(self) -> bool:
        """Whether there is one for each true group."""
        return self.reads_groups

    @property
    def rounds(self) -> int:
        """Rounds in all."""
        return self.config.server.rounds

    def init(self, dimension: int, groups: Sequence[str], seed: int) -> ServerState:
        """A random head; a prototype for each of ``groups`` if they are read, else z = 0."""
        shape, generator = self.config.selector, torch_generator(seed, "init")
        head = HEADS[shape.head].init(dimension, shape, generator)
        if self.reads_groups:
            prototypes = init_prototypes(len(groups), shape.latent, shape.prototype_scale, generator)
        else:
            prototypes = torch.zeros(1, shape.latent)
        uniform = torch.full((len(prototypes),), -math.log(len(prototypes)))
        return ServerState(prefixed("head", head) | {"prototypes": prototypes}, uniform, zero_evidence())

    def broadcast(self, state: ServerState, client_ids: Sequence[str]) -> Broadcast:
        """The weights."""
        return Broadcast(prefixed("params", state.params), {}, (), state.round)

    def draw(self, seed: int, round_: int, client_id: str, pairs: int, components: int) -> Draws:
        """The same folds as every method."""
        return draw(seed, round_, client_id, pairs, self.config.local, base_dropout=self.config.selector.base_dropout)

    def client_update(self, received: Tree, data: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """E local steps on the same targets as every method."""
        before = below("params", received)
        head_functions = HEADS[self.config.selector.head]
        trace: dict[str, Tensor] = {}

        def loss(weights: Tree, step: int) -> Tensor:
            target = data.take(draws.target[..., step, :], draws.target_present[..., step, :])
            latent = weights["prototypes"]
            if self.reads_groups:
                latent = private["group"].unsqueeze(-2) @ latent
            margins = head_functions.margins(below("head", weights), target, latent, draws.base_keep[..., step, :])
            likelihood = weighted_mean(choice_log_likelihood(margins), target.weight.unsqueeze(-2)).squeeze(-1)
            trace["reconstruction"] = -likelihood.detach()
            return -likelihood

        after = train_locally(before, loss, self.config.local, frozen=lambda name: name == "prototypes")
        losses = {f"loss.{name}": data.count * value for name, value in trace.items()}
        return ClientUpdate(weighted_delta(before, after, data.count) | losses, None), {}

    def server_update(self, state: ServerState, update: CohortUpdate) -> tuple[ServerState, dict[str, float]]:
        """Average the weights."""
        return federated_average(state, update, self.config.server), mean_losses(update)

    def selector(self, state: ServerState) -> Selector:
        """The selector with the averaged weights."""
        return Selector(self.config.selector, self.inference, state.final, state.log_prior, torch.ones(()))
