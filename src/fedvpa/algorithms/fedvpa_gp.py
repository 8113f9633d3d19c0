"""FedVPA-GP: federated variational preference alignment with a Gumbel-Softmax mixture prior, as published and repaired.

Koo, Kim, Jang, Ok: "FedVPA-GP", ICML 2026, arXiv 2605.30873. Equations E1–E11 are numbered as in docs/paper_map.md.

    our symbol              the paper's            where
    context, target         one batch, D_i         client/draws.py: disjoint here, the same pairs there
    q(z | context)          q_φ(z | D_i)           selector/encoder.py (E1)
    margin(z)               logits(s_A, s_B | z)   selector/heads.py (E2, E11)
    components              posteriors of S^{t−1}  server/components.py (E6), objectives/mixture_prior.py (E7)
    logits                  π_i                    client/mixture_weights.py (E8): private, by id of a component
    prototypes, y*          P, y*_i                selector/prototypes.py, refinement.py: responsibilities (E9)

What a client minimises in each step (E10), with z a sample of q:

    reconstruction          −mean_target log σ(margin(z))                                  (E3–E5)
    + kl_weight ·           KL(q ‖ prior)                                                  (E7)
    + orthogonal_weight ·   (‖z − Σ_m y*_m p_m‖² + gram_weight · ‖P Pᵀ/s² − I‖²_F)          (E9)

Deviations, for the reasons in docs/paper_map.md, each configurable:
    - z never sees the pair that it predicts: every step infers it from a context and predicts other pairs.
    - The default head is bilinear in z and the response; the published ``residual`` head is there to reproduce it.
    - The mixture prior has M components, learned from sums of moments of the clients' posteriors. No posterior and no
      id of a client is sent to another, and the server keeps none. ``prior=posteriors`` exchanges them as published,
      to reproduce it and for nothing else.
    - y* are the client's own responsibilities for the prototypes, from its context; under ``prior=posteriors`` the
      server's balanced assignment of remembered posteriors, as published. True groups are never read.
    - A fixed share of N(0, I) keeps the prior proper; under ``prior=posteriors`` a client's own posterior is left out.
    - Head by SGD with L2, encoder by AdamW; weights averaged over the last rounds.
    - The prior enters *inference*; see below.

What enters the result: as published (``refinement=off``) q alone, from all of a user's context. Otherwise the product

    q(z | context) · Σ_m π_m N(z; μ_m, Σ_m) · Π_context σ(margin(z))^gain

of the amortised posterior, the prior that was learned (μ, Σ: the components; π: mean responsibilities), and the
likelihood of the same context: a product of experts (Hinton 2002), of which two read the same pairs, so it is no
Bayes' rule. ``laplace`` finds its mode and curvature around each component, ``responsibilities`` stays at the
components: selector/refinement.py. Where ``prior`` is not ``mixture`` no components are learned, and they stand at the
prototypes with the variance exp(``component_log_var``).

    gain                    the factor on evidence, max(1, ``variational.gain`` / rms of the evidence over clients)
    evidence                log-likelihood of a client's pairs at the prototypes
    z_scale                 0 in the warm-up, in which the head learns at z = 0, then 1

Left out: the choice tokens on language-model logits (a selector is a head on features of a frozen model).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, FeatureSetting, Plain
from fedvpa.algorithms.client.draws import Draws, draw
from fedvpa.algorithms.client.e_step import e_step, head_of
from fedvpa.algorithms.client.local_training import StepMeans, train_locally
from fedvpa.algorithms.client.mixture_weights import keep_weights, load_weights
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.server.aggregation import federated_average, loss_bounds, mean_losses, shapes, weighted_delta
from fedvpa.algorithms.server.components import follow_moments, m_step, moment_bounds, moment_statistics
from fedvpa.algorithms.server.evidence import (
    evidence_bounds,
    evidence_gain,
    evidence_statistics,
    follow_evidence,
    told_spread,
    warming_up,
)
from fedvpa.algorithms.server.mixture_state import MixtureState, components_of, each_ones, temperature
from fedvpa.algorithms.server.posterior_exchange import posterior_bounds, remember
from fedvpa.algorithms.server.validation import Expected
from fedvpa.core.seeds import torch_generator
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.objectives.bradley_terry import choice_log_likelihood, weighted_mean
from fedvpa.objectives.mixture_prior import mixture_prior_kl
from fedvpa.objectives.orthogonality import prototype_gram_penalty, prototype_pull
from fedvpa.selector.config import InferenceConfig
from fedvpa.selector.encoder import encode, init_encoder
from fedvpa.selector.heads import Head
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.prototypes import init_prototypes
from fedvpa.selector.selector import Selector

INFERENCE = {"off": "amortised", "laplace": "amortised_laplace", "responsibilities": "amortised_responsibilities"}
"""``variational.refinement`` → how z is inferred; see the module's docstring."""


@dataclass(frozen=True)
class FedVPAGP(Plain):
    """FedVPA-GP. See the module's docstring.

    Raises:
        ConfigError: If ``laplace`` refinement is asked for with a head whose margin is not linear in z.
    """

    config: MethodConfig
    name: str = "fedvpa_gp"
    reads_groups: bool = False
    personal: bool = True
    state_type: type[MixtureState] = MixtureState

    def __post_init__(self) -> None:
        head_of(self.config)

    @property
    def has_prototypes(self) -> bool:
        """Whether a term of the loss makes the prototypes mean something: not in FedVPL."""
        return self.config.variational.orthogonal_weight > 0

    @property
    def head(self) -> Head:
        """The functions of the configured head."""
        return head_of(self.config)

    @property
    def published(self) -> bool:
        """Whether clients' posteriors are exchanged."""
        return self.config.variational.prior == "posteriors"

    @property
    def reads_evidence(self) -> bool:
        """Whether responsibilities, or the gain, enter anything: not in FedVPL."""
        variational = self.config.variational
        return variational.prior == "mixture" or variational.refinement != "off" or self.has_prototypes

    def init(self, setting: FeatureSetting, seed: int) -> MixtureState:
        """Random weights, orthogonal prototypes, uniform prior: each part from a stream of its own."""
        shape, dimension = self.config.selector, setting.dimension
        head = self.head.init(dimension, shape, torch_generator(seed, "init"))
        encoder = init_encoder(dimension, shape.latent, shape.encoder, torch_generator(seed, "init", "encoder"))
        generator = torch_generator(seed, "init", "prototypes")
        prototypes = init_prototypes(shape.prototypes, shape.latent, shape.prototype_scale, generator)
        params = prefixed("head", head) | prefixed("encoder", encoder) | {"prototypes": prototypes}
        uniform = torch.full((shape.prototypes,), -math.log(shape.prototypes))
        return MixtureState(params=params, log_prior=uniform, seed=seed)

    def broadcast(self, state: MixtureState, client_ids: Sequence[str]) -> Broadcast:
        """Weights, components of the prior, π, gain and temperature: the same for all, unless posteriors are sent."""
        shared = prefixed("params", state.params) | {
            **components_of(state, self.config.selector.latent),
            "log_prior": state.log_prior,
            "gain": evidence_gain(state.spread, self.config.variational.gain),
            "spread": told_spread(state),
            "temperature": temperature(self.config, state.round),
            "z_scale": torch.tensor(0.0 if warming_up(self.config, state.round) else 1.0),
        }
        return Broadcast(shared, each_ones(state, client_ids) if self.published else {}, state.round)

    def expected(self, state: MixtureState) -> Expected:
        """Changes of all weights, losses, evidence and moments; the posterior under ``prior=posteriors`` alone."""
        count, latent = state.params["prototypes"].shape
        sums = loss_bounds("reconstruction", "kl", *(["orthogonal"] if self.has_prototypes else []))
        sums |= evidence_bounds(count) if self.reads_evidence else {}
        sums |= moment_bounds(count, latent) if self.config.variational.prior == "mixture" else {}
        own = posterior_bounds(latent) if self.published else {}
        return Expected(shapes(state.params), sums, own)

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> Draws:
        """Folds, reparameterisation noise, Gumbel noise, dropout."""
        shape = self.config.selector
        return draw(
            seed,
            broadcast.round,
            client_id,
            size,
            self.config.local,
            latent=shape.latent,
            components=broadcast.shared["prior.keys"].tolist(),
            base_dropout=shape.base_dropout,
            dropout=shape.encoder.dropout,
            widths=shape.encoder.pair_widths,
        )

    def load_private(self, private: Tree, received: Tree) -> Tree:
        """``logits``: this client's log π of the components received; −∞ in ``available`` for its own posterior."""
        return load_weights(private, received)

    def store_private(self, private: Tree, tensors: Tree, received: Tree) -> Tree:
        """Remember log π of the components met last."""
        return keep_weights(private, received["prior.keys"], tensors["logits"])

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """E local steps on disjoint contexts and targets, then what the client's posterior adds to the sums."""
        before = below("params", received)
        means = StepMeans(self.config.local.steps)

        def loss(weights: Tree, step: int) -> Tensor:
            parts = self._losses(weights, received, held, private, draws, step)
            means.add(**parts)
            return self._total(parts)

        after = train_locally(before | {"logits": private["logits"]}, loss, self.config.local)
        logits = after.pop("logits")
        statistics, posterior = self._report(before, received, held)
        sums = weighted_delta(before, after, held.count) | statistics | means.losses(held.count)
        return ClientUpdate(sums, posterior if self.published else {}), {"logits": logits}

    def server_update(self, state: MixtureState, update: CohortUpdate) -> tuple[MixtureState, dict[str, float]]:
        """Average the weights; the M-step of prior and components."""
        new, rate = federated_average(state, update, self.config.server), self.config.server.prior_rate
        if self.published and update.own:
            posteriors = remember(state.posteriors, update.own)
            new = replace(new, posteriors=posteriors, cohort=tuple(update.own))
        if self.config.variational.prior == "mixture":
            new = replace(new, moments=follow_moments(state.moments, update, rate))
        if self.reads_evidence:
            learn_prior = self.config.variational.learn_prior and not warming_up(self.config, new.round)
            new = follow_evidence(new, update, rate, learn_prior=learn_prior)
        return new, mean_losses(update)

    def selector(self, state: MixtureState) -> Selector:
        """The selector with the averaged weights; its prior's components are those that were learned."""
        variational, params = self.config.variational, state.final
        if state.moments:
            means, log_vars = m_step(state.moments)
            params = params | {"prototypes": means, "log_vars": log_vars}
        inference = InferenceConfig(
            method=INFERENCE[variational.refinement], component_log_var=variational.component_log_var
        )
        gain = evidence_gain(state.spread, variational.gain)
        return Selector(self.config.selector, inference, params, state.log_prior, gain)

    # The client's loss

    def _losses(
        self, weights: Tree, received: Tree, data: Pairs, private: Tree, draws: Draws, step: int
    ) -> dict[str, Tensor]:
        """The terms of E10, each of shape [*clients]."""
        context = data.take(draws.context[..., step, :], draws.context_present[..., step, :])
        target = data.take(draws.target[..., step, :], draws.target_present[..., step, :])
        masks = [mask[..., step, :, :] for mask in draws.encoder_keep]
        mean, log_var = encode(
            below("encoder", weights), context.delta, context.weight, self.config.selector.encoder, masks
        )
        z = mean + (0.5 * log_var).exp() * draws.noise[..., step, :]
        parts = {
            "reconstruction": self._reconstruction(weights, target, z * received["z_scale"].unsqueeze(-1), draws, step),
            "kl": self._kl(z, mean, log_var, weights["logits"], received, private, draws.gumbel[..., step, :]),
        }
        return parts | ({"orthogonal": self._orthogonal(weights, context, z, received)} if self.has_prototypes else {})

    def _total(self, parts: dict[str, Tensor]) -> Tensor:
        """E10: what the client minimises."""
        weights = {"kl": self.config.variational.kl_weight, "orthogonal": self.config.variational.orthogonal_weight}
        return parts["reconstruction"] + sum(weights[name] * parts[name] for name in weights.keys() & parts.keys())

    def _reconstruction(self, weights: Tree, target: Pairs, z: Tensor, draws: Draws, step: int) -> Tensor:
        """Mean negative log-likelihood of the targets at z, in nats (E3–E5)."""
        margins = self.head.margins(below("head", weights), target, z.unsqueeze(-2), draws.base_keep[..., step, :])
        return -weighted_mean(choice_log_likelihood(margins).squeeze(-2), target.weight)

    def _orthogonal(self, weights: Tree, context: Pairs, z: Tensor, received: Tree) -> Tensor:
        """‖z − Σ_m y*_m p_m‖² + γ·‖P Pᵀ/s² − I‖²_F (E9); under ``prior=posteriors`` no pull without y*."""
        prototypes = weights["prototypes"]
        if self.published:
            label = received["label"]
        else:
            _, label = e_step(self.head, below("head", weights), context, prototypes, received)
        pull = prototype_pull(z, (label.unsqueeze(-2) @ prototypes).squeeze(-2)) * label.sum(-1)
        gram = prototype_gram_penalty(prototypes, self.config.selector.prototype_scale)
        return pull + self.config.variational.gram_weight * gram

    def _kl(
        self, z: Tensor, mean: Tensor, log_var: Tensor, logits: Tensor, received: Tree, private: Tree, gumbel: Tensor
    ) -> Tensor:
        """KL(q ‖ prior) of one sample z (E7), with Gumbel-Softmax weights (E8)."""
        variational = self.config.variational
        parts = received["prior.means"], received["prior.log_vars"]
        available = torch.isfinite(private["available"])
        noise = gumbel if variational.gumbel else torch.zeros_like(gumbel)
        temperature = received["temperature"].unsqueeze(-1) if variational.gumbel else 1.0
        rest = variational.normal_weight
        return mixture_prior_kl(z, mean, log_var, parts, logits, available, noise, temperature, rest)

    def _report(self, before: Tree, received: Tree, data: Pairs) -> tuple[Tree, Tree]:
        """Of all training pairs under the weights received: statistics, and the posterior, ``mean`` and ``log_var``."""
        with torch.no_grad():
            encoder = below("encoder", before)
            mean, log_var = encode(encoder, data.delta, data.weight, self.config.selector.encoder)
        posterior, statistics = {"mean": mean, "log_var": log_var}, dict[str, Tensor]()
        if self.reads_evidence:
            known, share = e_step(self.head, below("head", before), data, before["prototypes"], received)
            statistics = evidence_statistics(known, share, data.count, received["spread"])
        if self.config.variational.prior == "mixture":
            statistics |= moment_statistics(statistics["responsibility"], mean, log_var)
        return statistics, posterior
