"""LoRe: every user's reward is a mixture of B basis rewards that all users share, federated.

"LoRe: Personalizing LLMs via Low-Rank Reward Modeling", arXiv 2504.14439, and as a switch, ``lore.meta``, MRM, "Meta
Reward Modeling", arXiv 2601.18731. Written from the papers' descriptions; their code was not used.

    our symbol                        the paper's
    h(x, y)                           features of a frozen model
    p_1 … p_B, the prototypes         – : B orthonormal vectors that stay as they are; 0 for B = 1
    v_b = w₀ + Wᵀp_b                  column b of the shared basis V ∈ R^{d×B}
    w, ``simplex.py``                 w_i = softmax(·) on the simplex
    z = Σ_b w_b p_b                   – : r(h; z) = w₀ᵀh + zᵀWh = wᵀVᵀh, since Σ w_b = 1

So a basis is the bilinear head of all methods here, and z are the user's weights: the p_b are orthonormal, so that
w_b = p_b·z. The basis is averaged by FedAvg. The weights are private: a client fits them to convergence on the context
of each local step, under the basis as it then is, and the step moves the basis on pairs that are not in that context.
Nothing about the weights is sent or kept. A new user fits weights to a basis that does not move.

    B = 1                             is ``global``: z = 0 whatever the pairs
    B = M, weights one-hot            is ``oracle``: z is the prototype of the user's group

MRM: the logits of the weights from which every user starts are learned as well (``initial``, shape [B]), and a user
takes a few gradient steps from there instead of going to convergence. As in first-order MAML (Finn, Abbeel, Levine,
arXiv 1703.03400), the gradient on the targets at the user's weights moves the start; second derivatives are left out.

Deviations:
    - Federated. The papers train basis and weights of all users together, with Adam.
    - Weights come from other pairs than those that move the basis, as in every method here.
    - Left out: the pull of V to the head of the reward model that gives the features (a language model has none), and
      MRM's emphasis on users that are hard to learn.

A posterior of this method is a point, and its variance says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
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
from fedvpa.core.errors import ConfigError
from fedvpa.core.seeds import torch_generator
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.objectives.bradley_terry import choice_log_likelihood, weighted_mean
from fedvpa.selector.config import InferenceConfig
from fedvpa.selector.heads import HEADS, Head
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.prototypes import init_prototypes
from fedvpa.selector.selector import Selector
from fedvpa.selector.simplex import adapt_weights, fit_weights

STILL = frozenset({"prototypes"})
"""Never trained, so no change of it is sent."""


@dataclass(frozen=True)
class Lore(Plain):
    """LoRe, or MRM. See the module's docstring.

    Raises:
        ConfigError: For a head that no z mixes, or a basis that does not fit into the latent.
    """

    config: MethodConfig
    name: str = "lore"
    reads_groups: bool = False
    personal: bool = True
    has_prototypes: bool = False
    state_type: type[Averaged] = Averaged

    def __post_init__(self) -> None:
        shape, basis = self.config.selector, self.config.lore.basis
        if not self.head.personal:
            raise ConfigError(
                f"lore mixes rewards that see the responses; those of selector.head={shape.head} do not, or are not "
                "learned.",
                fix="Use selector.head=bilinear or mlp.",
            )
        if basis > shape.latent:
            raise ConfigError(
                f"lore.basis={basis} basis rewards need as many dimensions of z, and selector.latent={shape.latent}.",
                fix="Raise selector.latent or lower lore.basis.",
            )

    @property
    def head(self) -> Head:
        """The functions of the configured head."""
        return HEADS[self.config.selector.head]

    def init(self, setting: FeatureSetting, seed: int) -> Averaged:
        """A random head; B orthonormal prototypes, or z = 0 for a single one; even weights to start from."""
        shape, basis = self.config.selector, self.config.lore.basis
        head = prefixed("head", self.head.init(setting.dimension, shape, torch_generator(seed, "init")))
        generator = torch_generator(seed, "init", "prototypes")
        several = init_prototypes(basis, shape.latent, shape.prototype_scale, generator)
        params = head | {"prototypes": several if basis > 1 else torch.zeros(1, shape.latent)}
        return Averaged(params | {"initial": torch.zeros(basis)} if self.config.lore.meta else params)

    def broadcast(self, state: Averaged, client_ids: Sequence[str]) -> Broadcast:
        """The weights."""
        return Broadcast(prefixed("params", state.params), {}, state.round)

    def expected(self, state: Averaged) -> Expected:
        """Changes of the basis, and with MRM of where weights start, and the loss."""
        return Expected(shapes(_trained(state.params)), loss_bounds("reconstruction"))

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> Draws:
        """The same folds as every method."""
        dropout = self.config.selector.base_dropout
        return draw(seed, broadcast.round, client_id, size, self.config.local, base_dropout=dropout)

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """E local steps on the basis, each at weights fitted to the step's context."""
        before, means = below("params", received), StepMeans(self.config.local.steps)

        def loss(weights: Tree, step: int) -> Tensor:
            context = held.take(draws.context[..., step, :], draws.context_present[..., step, :])
            target = held.take(draws.target[..., step, :], draws.target_present[..., step, :])
            z = (self._mixture(weights, context).unsqueeze(-2)) @ weights["prototypes"]
            margins = self.head.margins(below("head", weights), target, z, draws.base_keep[..., step, :])
            value = -weighted_mean(choice_log_likelihood(margins), target.weight.unsqueeze(-2)).squeeze(-1)
            means.add(reconstruction=value)
            return value

        after = train_locally(before, loss, self.config.local, frozen=STILL.__contains__)
        change = weighted_delta(_trained(before), _trained(after), held.count)
        return ClientUpdate(change | means.losses(held.count)), {}

    def server_update(self, state: Averaged, update: CohortUpdate) -> tuple[Averaged, dict[str, float]]:
        """Average the weights."""
        return federated_average(state, update, self.config.server), mean_losses(update)

    def selector(self, state: Averaged) -> Selector:
        """The averaged basis, and how weights are fitted to it."""
        own, final = self.config.lore, dict(state.final)
        log_start = torch.log_softmax(final.pop("initial", torch.zeros(own.basis)), -1)
        shape = self.config.selector.model_copy(update={"prototypes": own.basis})
        inference = InferenceConfig(
            method="simplex", steps=own.meta_steps if own.meta else None, rate=own.meta_lr if own.meta else 1.0
        )
        return Selector(shape, inference, final, log_start, torch.ones(()))

    def _mixture(self, weights: Tree, context: Pairs) -> Float[Tensor, "*clients b"]:
        """The client's weights under the basis as it is; with MRM the start's gradient passes through them."""
        own = self.config.lore
        with torch.no_grad():
            margins = self.head.margins(below("head", weights), context, weights["prototypes"], None)
            if not own.meta:
                return fit_weights(margins, context.weight)
            start = weights["initial"].detach().expand(margins.shape[:-1])
            moved = adapt_weights(start, margins, context.weight, own.meta_steps, own.meta_lr) - start
        return torch.softmax(weights["initial"] + moved, -1)


def _trained(params: Tree) -> Tree:
    return {name: leaf for name, leaf in params.items() if name not in STILL}
