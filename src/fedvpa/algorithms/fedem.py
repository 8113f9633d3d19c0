"""FedEM: federated expectation-maximisation over M prototypes of preference. Nothing in it is variational.

Every user is taken to have one of M preferences. The E-step runs on the client, and the M-step is FedAvg of gradient
steps: a generalised EM (Dempster, Laird, Rubin 1977; Neal and Hinton 1998), as for clusters of clients in Marfoq et
al., "Federated Multi-Task Learning under a Mixture of Distributions", NeurIPS 2021, arXiv 2108.10252, and in FedSoft,
arXiv 2112.06053. Releases before 0.4 had it under the name of FedVPA-GP, with ``refinement`` on, beside an encoder
that learned what the E-step finds and did not enter the result.

    E-step, on the client:  r_m ∝ π_m exp(gain · Σ_context log σ(margin(p_m)))         m = 1 … M
    M-step, on the client:  E steps of SGD on −Σ_m r_m · mean_target log σ(margin(p_m)), L2 on the head
    M-step, on the server:  head ← FedAvg; π ← running mean of r; gain ← max(1, target / rms of the evidence)

A step's context and target are disjoint pairs: no responsibility is of a pair that it then weighs. The prototypes are
fixed orthogonal vectors, because any change of them is one of the head: r(h; p_m) = (w₀ + Wᵀp_m)ᵀh. A single prototype
is the origin, so that with M = 1 the training is that of ``global``.

At inference the prior is a mixture of N(p_m, v I) of weights π, with log v = ``variational.component_log_var``, and z
is the Laplace approximation around each component under it (``variational.refinement=laplace``), or sits on the
prototypes (``responsibilities``): selector/refinement.py. As v → 0 both are the same.

    gain                    the factor on evidence in responsibilities; ``variational.gain`` is the target above
    evidence                log-likelihood of a client's pairs at the prototypes
    z_scale                 0 in the warm-up, in which all clients share one head, then 1

What a client sends: the change of the head, its losses, and sums of responsibilities and of its evidence's spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, FeatureSetting, Plain
from fedvpa.algorithms.client.draws import Draws, draw
from fedvpa.algorithms.client.e_step import e_step, head_of
from fedvpa.algorithms.client.local_training import StepMeans, train_locally
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.server.aggregation import federated_average, loss_bounds, mean_losses, shapes, weighted_delta
from fedvpa.algorithms.server.evidence import (
    EvidenceState,
    evidence_bounds,
    evidence_gain,
    evidence_statistics,
    follow_evidence,
    told_spread,
    warming_up,
)
from fedvpa.algorithms.server.validation import Expected
from fedvpa.core.errors import ConfigError
from fedvpa.core.seeds import torch_generator
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.objectives.bradley_terry import choice_log_likelihood, weighted_mean
from fedvpa.selector.config import InferenceConfig
from fedvpa.selector.heads import Head
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.prototypes import init_prototypes
from fedvpa.selector.selector import Selector

FIXED = "prototypes"
"""What is sent and not trained."""


@dataclass(frozen=True)
class FedEM(Plain):
    """Federated EM. See the module's docstring.

    Raises:
        ConfigError: If refinement is off, or is ``laplace`` with a head whose margin is not linear in z.
    """

    config: MethodConfig
    name: str = "fedem"
    reads_groups: bool = False
    personal: bool = True
    has_prototypes: bool = True
    state_type: type[EvidenceState] = EvidenceState

    def __post_init__(self) -> None:
        if self.config.variational.refinement == "off":
            raise ConfigError(
                "fedem has no encoder: without the likelihood of a user's pairs there is no z.",
                fix="Use variational.refinement=laplace or responsibilities, or method=fedvpa_gp.",
                where="variational.refinement",
            )
        head_of(self.config)

    @property
    def head(self) -> Head:
        """The functions of the configured head."""
        return head_of(self.config)

    def init(self, setting: FeatureSetting, seed: int) -> EvidenceState:
        """A random head, orthogonal prototypes (the origin if there is one), a uniform prior."""
        shape = self.config.selector
        head = self.head.init(setting.dimension, shape, torch_generator(seed, "init"))
        generator = torch_generator(seed, "init", "prototypes")
        scale = shape.prototype_scale if shape.prototypes > 1 else 0.0
        prototypes = init_prototypes(shape.prototypes, shape.latent, scale, generator)
        uniform = torch.full((shape.prototypes,), -math.log(shape.prototypes))
        return EvidenceState(params=prefixed("head", head) | {FIXED: prototypes}, log_prior=uniform)

    def broadcast(self, state: EvidenceState, client_ids: Sequence[str]) -> Broadcast:
        """Weights, prior and gain: the same for all."""
        shared = prefixed("params", state.params) | {
            "log_prior": state.log_prior,
            "gain": evidence_gain(state.spread, self.config.variational.gain),
            "spread": told_spread(state),
            "z_scale": torch.tensor(0.0 if warming_up(self.config, state.round) else 1.0),
        }
        return Broadcast(shared, {}, state.round)

    def expected(self, state: EvidenceState) -> Expected:
        """Changes of the head, the loss, and statistics of the evidence."""
        trained = {name: leaf for name, leaf in state.params.items() if name != FIXED}
        return Expected(shapes(trained), loss_bounds("reconstruction") | evidence_bounds(len(state.log_prior)))

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> Draws:
        """The same folds as every method."""
        dropout = self.config.selector.base_dropout
        return draw(seed, broadcast.round, client_id, size, self.config.local, base_dropout=dropout)

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """E local steps on disjoint contexts and targets, and the evidence of all pairs under the weights received."""
        before = below("params", received)
        means = StepMeans(self.config.local.steps)

        def loss(weights: Tree, step: int) -> Tensor:
            context = held.take(draws.context[..., step, :], draws.context_present[..., step, :])
            target = held.take(draws.target[..., step, :], draws.target_present[..., step, :])
            found = self._expected_loss(weights, context, target, received, draws.base_keep[..., step, :])
            means.add(reconstruction=found)
            return found

        after = train_locally(before, loss, self.config.local, frozen=lambda name: name == FIXED)
        for tree in (before, after):
            tree.pop(FIXED)
        known, share = e_step(self.head, below("params.head", received), held, received[f"params.{FIXED}"], received)
        statistics = evidence_statistics(known, share, held.count, received["spread"])
        return ClientUpdate(weighted_delta(before, after, held.count) | statistics | means.losses(held.count)), {}

    def server_update(self, state: EvidenceState, update: CohortUpdate) -> tuple[EvidenceState, dict[str, float]]:
        """Average the head; follow prior and evidence."""
        new = federated_average(state, update, self.config.server)
        learn_prior = self.config.variational.learn_prior and not warming_up(self.config, new.round)
        new = follow_evidence(new, update, self.config.server.prior_rate, learn_prior=learn_prior)
        return new, mean_losses(update)

    def selector(self, state: EvidenceState) -> Selector:
        """The selector with the averaged weights."""
        variational = self.config.variational
        inference = InferenceConfig(method=variational.refinement, component_log_var=variational.component_log_var)
        gain = evidence_gain(state.spread, variational.gain)
        return Selector(self.config.selector, inference, state.final, state.log_prior, gain)

    def _expected_loss(self, weights: Tree, context: Pairs, target: Pairs, received: Tree, base_keep: Tensor) -> Tensor:
        """−Σ_m r_m · mean log-likelihood of the targets at p_m, in nats, shape [*clients]."""
        head = below("head", weights)
        _, share = e_step(self.head, head, context, weights[FIXED], received)
        latents = weights[FIXED] * received["z_scale"].unsqueeze(-1).unsqueeze(-1)
        likelihood = choice_log_likelihood(self.head.margins(head, target, latents, base_keep))
        by_prototype: Tensor = -weighted_mean(likelihood, target.weight.unsqueeze(-2))
        return (share * by_prototype).sum(-1)
