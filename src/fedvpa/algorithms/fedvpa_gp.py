"""FedVPA-GP: federated variational preference alignment with a Gumbel-Softmax mixture prior.

Koo, Kim, Jang, Ok: "FedVPA-GP", ICML 2026, arXiv 2605.30873. Equations E1–E11 are numbered as in docs/paper_map.md.

    our symbol              the paper's            where
    context, target         one batch, D_i         draws.py: disjoint here, the same pairs there
    q(z | context)          q_φ(z | D_i)           selector/encoder.py (E1)
    margin(z)               logits(s_A, s_B | z)   selector/heads.py (E2, E11)
    components              posteriors of S^{t−1}  broadcast (E6), objectives/mixture_prior.py (E7)
    logits                  π_i                    private, keyed by client id (E8)
    prototypes, y*          P, y*_i                selector/prototypes.py, prototype_prior.py (E9)

Deviations, for the reasons in docs/paper_map.md, each configurable:
    - z never sees the pair that it predicts: every step infers it from a context and predicts other pairs.
    - The default head is bilinear in z and the response; the published ``residual`` head is there to reproduce it.
    - ``refinement``: the likelihood of a client's own context at the prototypes gives its responsibilities. The head
      learns by them (a federated EM: E-step on the client, M-step by averaging; prototype_prior.py), and L_ortho pulls
      q to the prototypes that they name, instead of to labels from k-means. The encoder then learns to predict what
      the likelihood finds. Without refinement the head learns from samples of q, as published.
    - Without refinement y* comes from a balanced assignment of the remembered posteriors to the persisting prototypes.
      True groups are never read.
    - A client's own posterior is left out of its prior; an N(0, I) component of fixed weight keeps the prior proper.
    - Head by SGD with L2, encoder by AdamW; weights averaged over the last rounds.

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
from fedvpa.algorithms.client.local_training import train_locally
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.server import prototype_prior
from fedvpa.algorithms.server.aggregation import federated_average, loss_bounds, mean_losses, shapes, weighted_delta
from fedvpa.algorithms.server.prototype_prior import PrototypeState
from fedvpa.algorithms.server.validation import Expected
from fedvpa.core.errors import ConfigError
from fedvpa.core.seeds import torch_generator
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.objectives.bradley_terry import choice_log_likelihood, weighted_mean
from fedvpa.objectives.mixture_prior import mixture_prior_kl
from fedvpa.objectives.orthogonality import prototype_gram_penalty, prototype_pull
from fedvpa.selector.encoder import encode, init_encoder
from fedvpa.selector.heads import HEADS, Head
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior, single
from fedvpa.selector.prior import isotropic
from fedvpa.selector.prototypes import init_prototypes
from fedvpa.selector.refinement import at_prototypes, evidence, responsibilities
from fedvpa.selector.selector import InferenceConfig, Selector


@dataclass(frozen=True)
class FedVPAGP(Plain):
    """FedVPA-GP. See the module's docstring.

    Raises:
        ConfigError: If ``laplace`` refinement is asked for with a head whose margin is not linear in z.
    """

    config: MethodConfig
    name: str = "fedvpa_gp"
    reads_groups: bool = False

    def __post_init__(self) -> None:
        if self.config.variational.refinement == "laplace" and self.head.linear is None:
            raise ConfigError(
                f"Laplace refinement needs a head whose margin is linear in z; {self.config.selector.head!r} is not.",
                fix="Use selector.head=bilinear or mlp, or variational.refinement=responsibilities.",
            )

    @property
    def state_type(self) -> type[PrototypeState]:
        """Weights, prior, evidence and posteriors."""
        return PrototypeState

    @property
    def personal(self) -> bool:
        """Always."""
        return True

    @property
    def has_prototypes(self) -> bool:
        """Whether a term of the loss makes the prototypes mean something: not in FedVPL."""
        return self.refines or self.config.variational.orthogonal_weight > 0

    @property
    def rounds(self) -> int:
        """Rounds in all."""
        return self.config.server.rounds

    @property
    def head(self) -> Head:
        """The functions of the configured head."""
        return HEADS[self.config.selector.head]

    @property
    def refines(self) -> bool:
        """Whether the likelihood of the context enters z."""
        return self.config.variational.refinement != "off"

    def init(self, setting: FeatureSetting, seed: int) -> PrototypeState:
        """Random weights, orthogonal prototypes, uniform prior."""
        shape, generator, dimension = self.config.selector, torch_generator(seed, "init"), setting.dimension
        params = (
            prefixed("head", self.head.init(dimension, shape, generator))
            | prefixed("encoder", init_encoder(dimension, shape.latent, shape.encoder, generator))
            | {"prototypes": init_prototypes(shape.prototypes, shape.latent, shape.prototype_scale, generator)}
        )
        uniform = torch.full((shape.prototypes,), -math.log(shape.prototypes))
        return PrototypeState(params=params, log_prior=uniform, seed=seed)

    def broadcast(self, state: PrototypeState, client_ids: Sequence[str]) -> Broadcast:
        """Weights, prior and gain for all; for each client its prototype, and its place among the components."""
        if self.config.variational.prior != "mixture":
            state = replace(state, components=())
        known = [state.posteriors[name] for name in state.components]
        empty = torch.zeros(0, self.config.selector.latent, dtype=state.log_prior.dtype)
        shared = prefixed("params", state.params) | {
            "prior.means": torch.stack([own["mean"] for own in known]) if known else empty,
            "prior.log_vars": torch.stack([own["log_var"] for own in known]) if known else empty,
            "prior.keys": prototype_prior.component_keys(state),
            "log_prior": state.log_prior,
            "gain": prototype_prior.evidence_gain(state.evidence, self.config.variational.gain),
            "temperature": self._temperature(state),
            "personal": torch.tensor(0.0 if self._warming_up(state) else 1.0),
        }
        own = self._labels(state, client_ids) | {"component": prototype_prior.own_component(state, client_ids)}
        return Broadcast(shared, own, state.round)

    def expected(self, state: PrototypeState) -> Expected:
        """Changes of all weights, losses, evidence, and the posterior."""
        losses = loss_bounds("reconstruction", "kl", "orthogonal", *(["amortised"] if self.refines else []))
        evidence = prototype_prior.evidence_bounds(len(state.log_prior))
        posterior = prototype_prior.gaussian_bounds(self.config.selector.latent)
        return Expected(shapes(state.params), losses | evidence, posterior)

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
            components=len(broadcast.shared["prior.keys"]),
            base_dropout=shape.base_dropout,
            dropout=shape.encoder.dropout,
            widths=shape.encoder.pair_widths,
        )

    def load_private(self, private: Tree, received: Tree) -> Tree:
        """``logits``: this client's log π; −∞ in ``available`` for its own component."""
        known, keys = prototype_prior.learned_logits(private), received["prior.keys"]
        mine = torch.arange(len(keys)) == received["component"]
        return {
            "logits": torch.tensor([known.get(key, 0.0) for key in keys.tolist()]),
            "available": torch.zeros(len(keys)).masked_fill(mine, -math.inf),
        }

    def store_private(self, private: Tree, tensors: Tree, received: Tree) -> Tree:
        """Remember log π of the components met last, and the own posterior."""
        logits = prototype_prior.with_logits(private, received["prior.keys"], tensors["logits"])
        return {**logits, "mean": tensors["mean"], "log_var": tensors["log_var"]}

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """E local steps on disjoint contexts and targets, then the client's posterior under the weights it received."""
        before = below("params", received)
        trace: dict[str, Tensor] = {}

        def loss(weights: Tree, step: int) -> Tensor:
            parts = self._losses(weights, received, held, private, draws, step)
            trace.update({name: part.detach() for name, part in parts.items()})
            return self._total(parts)

        after = train_locally(before | {"logits": private["logits"]}, loss, self.config.local)
        logits = after.pop("logits")
        posterior, statistics = self._report(before, received, held)
        losses = {f"loss.{name}": held.count * value for name, value in trace.items()}
        sums = weighted_delta(before, after, held.count) | statistics | losses
        return ClientUpdate(sums, posterior), {"logits": logits, **posterior}

    def server_update(self, state: PrototypeState, update: CohortUpdate) -> tuple[PrototypeState, dict[str, float]]:
        """Average the weights; follow prior and evidence; remember the posteriors."""
        new = federated_average(state, update, self.config.server)
        if not update.own:
            return new, {}
        posteriors = prototype_prior.remember(state.posteriors, update.own)
        new = replace(new, posteriors=posteriors, components=tuple(update.own))
        learn_prior = self.config.variational.learn_prior and not self._warming_up(new)
        new = prototype_prior.follow_evidence(new, update, self.config.server.prior_rate, learn_prior=learn_prior)
        return new, mean_losses(update)

    def selector(self, state: PrototypeState) -> Selector:
        """The selector with the averaged weights."""
        variational = self.config.variational
        method = "amortised" if variational.refinement == "off" else variational.refinement
        inference = InferenceConfig(method=method, component_log_var=variational.component_log_var)
        gain = prototype_prior.evidence_gain(state.evidence, variational.gain)
        return Selector(self.config.selector, inference, state.final, state.log_prior, gain)

    # The client's loss

    def _losses(
        self, weights: Tree, received: Tree, data: Pairs, private: Tree, draws: Draws, step: int
    ) -> dict[str, Tensor]:
        """The terms of E10, each of shape [*clients]."""
        context = data.take(draws.context[..., step, :], draws.context_present[..., step, :])
        target = data.take(draws.target[..., step, :], draws.target_present[..., step, :])
        masks = [mask[..., step, :, :] for mask in draws.encoder_keep]
        encoder, prototypes = below("encoder", weights), weights["prototypes"]
        mean, log_var = encode(encoder, context.delta, context.weight, self.config.selector.encoder, masks)
        z = mean + (0.5 * log_var).exp() * draws.noise[..., step, :]
        keep = draws.base_keep[..., step, :]
        if self.refines:
            share = self._responsibilities(below("head", weights), context, prototypes, received)
            parts = self._refined_reconstruction(weights, target, share, z, keep, received["personal"])
            pull = prototype_pull(z, (share.unsqueeze(-2) @ prototypes).squeeze(-2))
        else:
            latent = (z * received["personal"].unsqueeze(-1)).unsqueeze(-2)
            parts = {"reconstruction": self._reconstruction(below("head", weights), target, latent, keep).squeeze(-1)}
            assigned = (received["label"].unsqueeze(-2) @ prototypes).squeeze(-2)
            pull = prototype_pull(z, assigned) * received["labelled"]
        gram = prototype_gram_penalty(prototypes, self.config.selector.prototype_scale)
        parts["kl"] = self._kl(z, mean, log_var, weights["logits"], received, private, draws.gumbel[..., step, :])
        parts["orthogonal"] = pull + self.config.variational.gram_weight * gram
        return parts

    def _total(self, parts: dict[str, Tensor]) -> Tensor:
        """E10, plus the encoder's own reconstruction where the head learns by responsibilities."""
        variational = self.config.variational
        total = parts["reconstruction"] + variational.kl_weight * parts["kl"]
        if variational.orthogonal_weight:
            total = total + variational.orthogonal_weight * parts["orthogonal"]
        return total + parts["amortised"] if "amortised" in parts else total

    def _reconstruction(self, head: Tree, target: Pairs, latents: Tensor, base_keep: Tensor) -> Tensor:
        """Mean negative log-likelihood of the targets at each latent, shape [*clients, m] (E3–E5)."""
        likelihood = choice_log_likelihood(self.head.margins(head, target, latents, base_keep))
        return -weighted_mean(likelihood, target.weight.unsqueeze(-2))

    def _responsibilities(self, head: Tree, context: Pairs, prototypes: Tensor, received: Tree) -> Tensor:
        with torch.no_grad():
            likelihood = evidence(self.head, head, context, prototypes)
            return responsibilities(likelihood, received["log_prior"], received["gain"].unsqueeze(-1))

    def _refined_reconstruction(
        self, weights: Tree, target: Pairs, share: Tensor, z: Tensor, base_keep: Tensor, personal: Tensor
    ) -> dict[str, Tensor]:
        """The head learns at the prototypes, by responsibility; the encoder through a head that it does not move."""
        head = below("head", weights)
        latents = weights["prototypes"].detach() * personal.unsqueeze(-1).unsqueeze(-1)
        by_prototype = self._reconstruction(head, target, latents, base_keep)
        still = {name: leaf.detach() for name, leaf in head.items()}
        return {
            "reconstruction": (share * by_prototype).sum(-1),
            "amortised": self._reconstruction(still, target, z.unsqueeze(-2), base_keep).squeeze(-1),
        }

    def _kl(
        self, z: Tensor, mean: Tensor, log_var: Tensor, logits: Tensor, received: Tree, private: Tree, gumbel: Tensor
    ) -> Tensor:
        """KL(q ‖ prior) of one sample z (E7)."""
        variational = self.config.variational
        components = received["prior.means"], received["prior.log_vars"]
        available = torch.isfinite(private["available"])
        noise = gumbel if variational.gumbel else torch.zeros_like(gumbel)
        temperature = received["temperature"].unsqueeze(-1) if variational.gumbel else 1.0
        rest = variational.normal_weight
        return mixture_prior_kl(z, mean, log_var, components, logits, available, noise, temperature, rest)

    def _report(self, before: Tree, received: Tree, data: Pairs) -> tuple[Tree, Tree]:
        """The posterior from all training pairs under the weights that the client received, and its statistics."""
        with torch.no_grad():
            prototypes, head = before["prototypes"], below("head", before)
            likelihood = evidence(self.head, head, data, prototypes)
            prior = isotropic(received["log_prior"], prototypes, self.config.variational.component_log_var)
            refined = at_prototypes(likelihood, prior, received["gain"].unsqueeze(-1))
            posterior: Posterior = refined
            if not self.refines:
                encoder = below("encoder", before)
                posterior = single(*encode(encoder, data.delta, data.weight, self.config.selector.encoder))
        mean, log_var = posterior.gaussian()
        statistics = prototype_prior.evidence_statistics(likelihood, refined.weights, data.count)
        return {"mean": mean, "log_var": log_var}, statistics

    # The server's side

    def _warming_up(self, state: PrototypeState) -> bool:
        return state.round < self.config.variational.warmup * self.config.server.rounds

    def _temperature(self, state: PrototypeState) -> Tensor:
        """τ, annealed exponentially from the first round to the last."""
        start, end = self.config.variational.temperature_start, self.config.variational.temperature_end
        progress = state.round / max(self.config.server.rounds - 1, 1)
        return torch.tensor(start * (end / start) ** progress)

    def _labels(self, state: PrototypeState, client_ids: Sequence[str]) -> Tree:
        """One-hot prototype labels y* of a cohort; zero where none is used or known."""
        if self.refines or not self.config.variational.orthogonal_weight:
            label = torch.zeros(len(client_ids), self.config.selector.prototypes, dtype=state.log_prior.dtype)
        else:
            label = prototype_prior.assigned_prototypes(state, client_ids, state.params["prototypes"])
        return {"label": label, "labelled": label.sum(-1)}
