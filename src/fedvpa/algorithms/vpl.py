"""VPL, centralised: variational preference learning on the pooled pairs of all users.

Poddar, Wan, Ivison, Gupta, Jaques: "Personalizing Reinforcement Learning from Human Feedback with Variational
Preference Learning", NeurIPS 2024, arXiv 2408.10075.

A yardstick that breaks the federation: it has no cohorts, no local steps and no average of models. One optimiser,
whose moments last for the whole training, descends the gradient of the loss of all users' pairs. Which pairs are one
user's is known. What ``fedvpl`` is behind it is what federating costs.

The loss of a user is that of ``fedvpl``, with the same head, encoder and disjoint context and target:

    −Σ_targets weight · log σ(margin(z)) / Σ weight + β KL(q(z | context) ‖ N(0, I)),   z ~ q(z | context),

and a user counts by the weight of its pairs. There are as many steps as a client of ``fedvpl`` takes over a training
that always asks it, ``server.rounds`` · ``local.steps``: step s is local step s mod E of the round ⌊s/E⌋ there, with
the same folds and noise. Here each of them is a round that asks everybody for a gradient; gradients are sums, and their
sum is the gradient of the pool.

Deviations: as in ``fedvpl``, a mean-pooled set encoder and a constant β. Limits on clients and robust rules
(``server.clip_norm`` and its like) do not act on it, since a pool has no clients; a client that drops out
(``engine.dropout``) is not in the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, FeatureSetting, Plain
from fedvpa.algorithms.client.draws import Draws, draw
from fedvpa.algorithms.client.local_training import optimizers
from fedvpa.algorithms.config import LocalConfig, MethodConfig
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
from fedvpa.objectives.gaussian import standard_normal_kl
from fedvpa.selector.config import InferenceConfig
from fedvpa.selector.encoder import encode, init_encoder
from fedvpa.selector.heads import HEADS, Head
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import Selector


@dataclass(frozen=True, repr=False, kw_only=True)
class Descent(Averaged):
    """The weights, and the optimisers that move them.

    Attributes:
        moments: What the optimisers remember: ``step.<weight>``, ``exp_avg.<weight>`` and so on.
    """

    moments: Tree = field(default_factory=dict)


@dataclass(frozen=True)
class VPL(Plain):
    """Centralised VPL. See the module's docstring."""

    config: MethodConfig
    name: str = "vpl"
    reads_groups: bool = False
    personal: bool = True
    has_prototypes: bool = False
    state_type: type[Descent] = Descent

    def __post_init__(self) -> None:
        """A round is a step of the pool, without limits on clients."""
        pooled = {"rule": "mean", "clip_norm": None, "max_weight": None}
        object.__setattr__(
            self, "config", self.config.model_copy(update={"server": self.config.server.model_copy(update=pooled)})
        )

    @property
    def rounds(self) -> int:
        """Steps in all."""
        return self.config.server.rounds * self.config.local.steps

    @property
    def head(self) -> Head:
        """The functions of the configured head."""
        return HEADS[self.config.selector.head]

    def init(self, setting: FeatureSetting, seed: int) -> Descent:
        """Random weights, as those of ``fedvpl``."""
        shape, dimension = self.config.selector, setting.dimension
        head = prefixed("head", self.head.init(dimension, shape, torch_generator(seed, "init")))
        encoder = init_encoder(dimension, shape.latent, shape.encoder, torch_generator(seed, "init", "encoder"))
        return Descent(params=head | prefixed("encoder", encoder))

    def asks_everyone(self, state: Descent) -> bool:
        """Always: the pool is everybody's pairs."""
        return True

    def broadcast(self, state: Descent, client_ids: Sequence[str]) -> Broadcast:
        """The weights."""
        return Broadcast(prefixed("params", state.params), {}, state.round)

    def expected(self, state: Descent) -> Expected:
        """Gradients, and the losses."""
        return Expected(shapes(state.params), loss_bounds("reconstruction", "kl"))

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> Draws:
        """The fold and the noise of the local step of ``fedvpl`` that this step is."""
        shape, local = self.config.selector, self.config.local
        round_, step = divmod(broadcast.round, local.steps)
        drawn = draw(
            seed,
            round_,
            client_id,
            size,
            local,
            latent=shape.latent,
            base_dropout=shape.base_dropout,
            dropout=shape.encoder.dropout,
            widths=shape.encoder.pair_widths,
        )
        return drawn.only(step)

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """The downward gradient of the user's loss as ``delta.*``, times the weight of its pairs."""
        before = below("params", received)
        weights = {name: leaf.detach().clone().requires_grad_() for name, leaf in before.items()}
        parts = self._losses(weights, held, draws)
        total = parts["reconstruction"] + self.config.variational.kl_weight * parts["kl"]
        slopes = torch.autograd.grad(total.sum(), list(weights.values()), allow_unused=True, materialize_grads=True)
        still = {name: torch.zeros_like(leaf) for name, leaf in before.items()}
        down = {name: -slope for name, slope in zip(weights, slopes, strict=True)}
        losses = {f"loss.{name}": held.count * value.detach() for name, value in parts.items()}
        return ClientUpdate(weighted_delta(still, down, held.count) | losses), {}

    def server_update(self, state: Descent, update: CohortUpdate) -> tuple[Descent, dict[str, float]]:
        """One step of the optimisers on the gradient of the pool."""
        server = self.config.server.model_copy(update={"rounds": self.rounds})
        if not update.sums or not update.sums["weight"] > 0:
            return federated_average(state, CohortUpdate({}), server), {}
        weight = update.sums["weight"]
        gradient = {name: -leaf / weight for name, leaf in below("delta", update.sums).items()}
        params, moments = descend(state.params, gradient, state.moments, self.config.local)
        moved = weighted_delta(state.params, params, torch.ones(()))
        return replace(federated_average(state, CohortUpdate(moved), server), moments=moments), mean_losses(update)

    def selector(self, state: Descent) -> Selector:
        """The selector, whose prior is N(0, I)."""
        shape = self.config.selector.model_copy(update={"prototypes": 1})
        params = state.final | {"prototypes": torch.zeros(1, shape.latent)}
        inference = InferenceConfig(method="amortised", component_log_var=0.0)
        return Selector(shape, inference, params, torch.zeros(1), torch.ones(()))

    def _losses(self, weights: Tree, held: Pairs, draws: Draws) -> dict[str, Tensor]:
        """Reconstruction and KL, each of shape [*clients]."""
        context = held.take(draws.context[..., 0, :], draws.context_present[..., 0, :])
        target = held.take(draws.target[..., 0, :], draws.target_present[..., 0, :])
        keep = [mask[..., 0, :, :] for mask in draws.encoder_keep]
        shape = self.config.selector.encoder
        mean, log_var = encode(below("encoder", weights), context.delta, context.weight, shape, keep)
        z = mean + (0.5 * log_var).exp() * draws.noise[..., 0, :]
        margins = self.head.margins(below("head", weights), target, z.unsqueeze(-2), draws.base_keep[..., 0, :])
        likelihood = weighted_mean(choice_log_likelihood(margins), target.weight.unsqueeze(-2)).squeeze(-1)
        return {"reconstruction": -likelihood, "kl": standard_normal_kl(mean, log_var)}


def descend(params: Tree, gradient: Tree, moments: Tree, local: LocalConfig) -> tuple[Tree, Tree]:
    """One step of the optimisers of local training, which go on from what they remember.

    Args:
        params: The weights; untouched.
        gradient: Of the loss, by the same names.
        moments: What the optimisers remember; nothing before the first step.
        local: Which optimisers, and their learning rates.

    Returns:
        The weights after the step, and what the optimisers remember then.
    """
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in params.items()}
    names, engines = {leaf: name for name, leaf in leaves.items()}, optimizers(leaves, local)
    kinds = {name.split(".", 1)[0] for name in moments}
    by_name = {kind: below(kind, moments) for kind in kinds}
    for engine in engines:
        for group in engine.param_groups:
            for leaf in group["params"]:
                name = names[leaf]
                leaf.grad = gradient[name].to(leaf.dtype)
                engine.state[leaf] = {kind: own[name].clone() for kind, own in by_name.items() if name in own}
        engine.step()
    kept = {
        f"{kind}.{names[leaf]}": value
        for engine in engines
        for leaf, known in engine.state.items()
        for kind, value in known.items()
        if isinstance(value, Tensor)
    }
    return {name: leaf.detach() for name, leaf in leaves.items()}, kept
