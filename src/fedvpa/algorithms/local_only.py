"""``local``: every client alone, on its own training pairs. The yardstick for what federation adds (evaluation.md, 2).

A linear head w per client, w = argmin mean(−log σ(wᵀΔh)) + (wd/2)‖w‖² with the methods' weight decay, solved to
convergence by Newton's method, in the span of the client's pairs where these are fewer than the features. That is the
refinement of ``selector/refinement.py`` with z = w and one prototype at 0, so nothing is trained and nothing is sent.
Whatever ``selector.head`` is, this head is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fedvpa.algorithms.aggregation import zero_evidence
from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, NothingPrivate, ServerState
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.draws import Draws, draw
from fedvpa.core.tree import Tree
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import InferenceConfig, Selector

SMALLEST_DECAY = 1e-6


@dataclass(frozen=True)
class LocalOnly(NothingPrivate):
    """No rounds: the whole method is its inference."""

    config: MethodConfig
    name: str = "local"
    reads_groups: bool = False
    personal: bool = False
    has_prototypes: bool = False
    rounds: int = 0

    def init(self, dimension: int, groups: Sequence[str], seed: int) -> ServerState:
        """Z is the weight vector itself: base 0, one prototype at 0."""
        params = {"head.base": torch.zeros(dimension), "prototypes": torch.zeros(1, dimension)}
        return ServerState(params, torch.zeros(1), zero_evidence())

    def broadcast(self, state: ServerState, client_ids: Sequence[str]) -> Broadcast:
        """Nothing is sent."""
        return Broadcast({}, {}, (), state.round)

    def draw(self, seed: int, round_: int, client_id: str, pairs: int, components: int) -> Draws:
        """The folds, which no client uses."""
        return draw(seed, round_, client_id, pairs, self.config.local)

    def client_update(self, received: Tree, data: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """Nothing is trained before inference."""
        return ClientUpdate({"weight": torch.zeros_like(data.count)}, None), {}

    def server_update(self, state: ServerState, update: CohortUpdate) -> tuple[ServerState, dict[str, float]]:
        """Only the round advances."""
        return replace(state, round=state.round + 1), {}

    def selector(self, state: ServerState) -> Selector:
        """A selector whose inference is the local training."""
        dimension = state.params["head.base"].shape[0]
        shape = self.config.selector.model_copy(update={"head": "linear", "latent": dimension, "prototypes": 1})
        decay = max(self.config.local.head_weight_decay, SMALLEST_DECAY)
        inference = InferenceConfig(method="ridge", decay=decay)
        return Selector(shape, inference, state.params, state.log_prior, torch.ones(()))
