"""``local``: every client alone, on its own training pairs. The yardstick for what federation adds.

A linear head w per client, w = argmin mean(−log σ(wᵀΔh)) + (wd/2)‖w‖² with the methods' weight decay, solved to
convergence by Newton's method, in the span of the client's pairs where these are fewer than the features. That is the
refinement of ``selector/refinement.py`` with z = w and one prototype at 0, so nothing is trained and nothing is sent.
Whatever ``selector.head`` is, this head is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, FeatureSetting, Plain
from fedvpa.algorithms.client.draws import Draws, draw
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.server.aggregation import Averaged
from fedvpa.algorithms.server.validation import Expected
from fedvpa.core.tree import Tree
from fedvpa.selector.config import InferenceConfig
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import Selector

SMALLEST_DECAY = 1e-6


@dataclass(frozen=True)
class LocalOnly(Plain):
    """No rounds: the whole method is its inference."""

    config: MethodConfig
    name: str = "local"
    reads_groups: bool = False
    personal: bool = False
    has_prototypes: bool = False
    rounds: int = 0
    state_type: type[Averaged] = Averaged

    def init(self, setting: FeatureSetting, seed: int) -> Averaged:
        """Z is the weight vector itself: base 0, one prototype at 0."""
        zero = torch.zeros(setting.dimension)
        return Averaged({"head.base": zero, "prototypes": zero.unsqueeze(0)})

    def broadcast(self, state: Averaged, client_ids: Sequence[str]) -> Broadcast:
        """Nothing is sent."""
        return Broadcast({}, {}, state.round)

    def expected(self, state: Averaged) -> Expected:
        """Nothing."""
        return Expected({})

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> Draws:
        """The folds, which no client uses."""
        return draw(seed, broadcast.round, client_id, size, self.config.local)

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """Nothing is trained before inference."""
        return ClientUpdate({"weight": torch.zeros_like(held.count)}), {}

    def server_update(self, state: Averaged, update: CohortUpdate) -> tuple[Averaged, dict[str, float]]:
        """Only the round advances."""
        return replace(state, round=state.round + 1), {}

    def selector(self, state: Averaged) -> Selector:
        """A selector whose inference is the local training."""
        dimension = state.params["head.base"].shape[0]
        shape = self.config.selector.model_copy(update={"head": "linear", "latent": dimension, "prototypes": 1})
        decay = max(self.config.local.head_weight_decay, SMALLEST_DECAY)
        inference = InferenceConfig(method="ridge", decay=decay)
        return Selector(shape, inference, state.params, torch.zeros(1), torch.ones(()))
