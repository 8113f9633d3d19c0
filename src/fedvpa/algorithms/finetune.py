"""``finetune``: the global head, then each user's own ridge solution around it.

The first baseline of personalised federated learning: Cheng, Chadha, Duchi, "Fine-tuning is Fine in Federated
Learning", arXiv 2108.07313, who call it RTFA, ridge-tuned federated averaging. They study squared error and choose the
strength by a theory of it; here the loss is that of choices, and the strength is chosen as said below.

Training is that of ``global``: FedAvg of one head. A user's reward is r(h) = (w₀ + z)ᵀh, where z is the mode of

    Σ_pairs log σ((w₀ + z)ᵀΔh) − (τ/2)‖z‖²,

solved on the user's own pairs (``selector/refinement.py``). It is private: only w₀ is averaged. A new user's z comes
from that user's context pairs in the same way.

The strength τ is chosen by validation on training pairs. In the last rounds each client solves for z on the context of
each local step, at every strength, and finds the strength that predicts the step's targets best, which the context does
not hold. It reports for each strength whether its own is at least as strong. These reports are sums, and the server
takes the weighted median: where clients differ, no few of them decide, and a fifth that lie move it little. The global
head has seen a client's targets in earlier rounds, as one of many clients' pairs; test pairs are never used.

Whatever ``selector.head`` is, this head is linear; with ``mlp`` it is linear on the trunk, which is trained as in
``global``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, FeatureSetting, Plain
from fedvpa.algorithms.client.draws import Draws
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.fixed_latent import FixedLatent
from fedvpa.algorithms.server.aggregation import Averaged, federated_average, loss_bounds, mean_losses, shapes
from fedvpa.algorithms.server.validation import Bounds, Expected
from fedvpa.core.seeds import torch_generator
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.objectives.bradley_terry import choice_log_likelihood, weighted_mean
from fedvpa.selector.config import InferenceConfig
from fedvpa.selector.heads import HEADS, Head
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.refinement import modes
from fedvpa.selector.selector import Selector

STRENGTHS = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""Strengths that are tried, each as τ over the number of features d, the strongest first. Features have root mean
square 1, so a prior with τ = d lets z move a margin by about one nat. Chosen by us: the first is nearly ``global``, and
the last is as weak as the penalty of ``local`` on thirty pairs at d = 896."""

LAST_ROUNDS = 0.1
"""The share of the rounds, at their end, in which clients report: the head is settled then, and some hundred votes
are enough for nine strengths. Chosen by us."""


@dataclass(frozen=True, repr=False, kw_only=True)
class Tuned(Averaged):
    """The global head, and what clients report of the strengths.

    Attributes:
        votes: For each strength Σ over the reports of pairs whose client wants one at least as strong, shape [s].
        voted: Σ over the reports of pairs.
    """

    votes: Float[Tensor, " s"] = field(default_factory=lambda: torch.zeros(len(STRENGTHS)))
    voted: Float[Tensor, ""] = field(default_factory=lambda: torch.zeros(()))


@dataclass(frozen=True)
class FineTune(Plain):
    """``global``, then ridge around it. See the module's docstring."""

    config: MethodConfig
    name: str = "finetune"
    reads_groups: bool = False
    personal: bool = False
    has_prototypes: bool = False
    state_type: type[Tuned] = Tuned

    @property
    def head(self) -> Head:
        """The functions of its head."""
        return HEADS[self._global.config.selector.head]

    @property
    def _global(self) -> FixedLatent:
        """What trains the head that all share."""
        kind = "mlp" if self.config.selector.head == "mlp" else "linear"
        shape = self.config.selector.model_copy(update={"head": kind})
        return FixedLatent(self.config.model_copy(update={"selector": shape}), self.name, reads_groups=False)

    def init(self, setting: FeatureSetting, seed: int) -> Tuned:
        """The head that ``global`` starts from."""
        shape = self._global.config.selector
        shape = shape.model_copy(update={"latent": shape.trunk_width if shape.head == "mlp" else setting.dimension})
        head = self.head.init(setting.dimension, shape, torch_generator(seed, "init"))
        return Tuned(params=prefixed("head", {name: leaf for name, leaf in head.items() if name != "personal"}))

    def broadcast(self, state: Tuned, client_ids: Sequence[str]) -> Broadcast:
        """The weights, and whether this round asks for held-out pairs."""
        rounds = self.config.server.rounds
        tuning = state.round >= min(rounds - 1, rounds * (1 - LAST_ROUNDS))
        shared = prefixed("params", state.params) | {"tuning": torch.tensor(float(tuning))}
        return Broadcast(shared, {}, state.round)

    def expected(self, state: Tuned) -> Expected:
        """Changes of all weights, the loss, and a vote."""
        votes = {
            "votes": Bounds((len(STRENGTHS),), 0.0, 1.0, per="weight"),
            "voted": Bounds((), 0.0, 1.0, per="weight"),
        }
        return Expected(shapes(state.params), loss_bounds("reconstruction") | votes)

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> Draws:
        """The same folds as every method."""
        return self._global.draw(seed, broadcast, client_id, size)

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """E local steps of ``global``; in the last rounds also a vote for the strength."""
        still = self._still(received["params.head.base"])
        update, after = self._global.client_update(received | prefixed("params", still), held, private, draws)
        sums = {name: leaf for name, leaf in update.sums.items() if name.removeprefix("delta.") not in still}
        votes = received["tuning"].new_zeros(*held.count.shape, len(STRENGTHS))
        if received["tuning"].any():
            weights = below("head", below("params", received) | still)
            votes = vote(held_out_likelihood(self.head, weights, held, draws), held.distinct)
        count = held.count * received["tuning"]
        return ClientUpdate(sums | {"votes": count.unsqueeze(-1) * votes, "voted": count}), after

    def server_update(self, state: Tuned, update: CohortUpdate) -> tuple[Tuned, dict[str, float]]:
        """Average the weights; add up the reports."""
        new = federated_average(state, update, self.config.server)
        if not update.sums:
            return new, {}
        votes, voted = new.votes + update.sums["votes"], new.voted + update.sums["voted"]
        return replace(new, votes=votes, voted=voted), mean_losses(update)

    def selector(self, state: Tuned) -> Selector:
        """The averaged head, and the ridge around it at the strength that clients want."""
        still = self._still(state.params["head.base"])
        latent = still["prototypes"].shape[-1]
        shape = self._global.config.selector.model_copy(update={"latent": latent, "prototypes": 1})
        inference = InferenceConfig(method="ridge", precision=latent * strength(state))
        return Selector(shape, inference, state.final | still, torch.zeros(1), torch.ones(()))

    def _still(self, base: Float[Tensor, "*clients k"]) -> Tree:
        """What is never trained nor sent: z = 0 as the only prototype and, on a trunk, W = I."""
        still = {"prototypes": torch.zeros_like(base).unsqueeze(-2)}
        if self._global.config.selector.head == "mlp":
            still["head.personal"] = torch.eye(base.shape[-1]).expand(*base.shape, base.shape[-1])
        return still


def strength(state: Tuned) -> float:
    """The weighted median of the strengths that clients want: the strongest that half of them do not want stronger.

    The strongest of all before any report.
    """
    if not state.voted > 0:
        return STRENGTHS[0]
    enough = state.votes >= 0.5 * state.voted
    return STRENGTHS[int(enough.int().argmax())] if enough.any() else STRENGTHS[-1]


def vote(likelihood: Float[Tensor, "*clients s"], pairs: Int[Tensor, "*clients"]) -> Float[Tensor, "*clients s"]:
    """For each strength 1 if the most likely one is at least as strong, else 0.

    A client of fewer than two pairs holds none out and abstains: ½ for all.
    """
    best = likelihood.argmax(-1, keepdim=True)
    wanted = (torch.arange(len(STRENGTHS)) >= best).to(likelihood.dtype)
    return wanted.where(pairs.unsqueeze(-1) > 1, wanted.new_tensor(0.5))


@torch.no_grad()
def held_out_likelihood(head: Head, weights: Tree, held: Pairs, draws: Draws) -> Float[Tensor, "*clients s"]:
    """Mean log-likelihood of the targets of all local steps, in nats, by z from the context of the same step.

    Args:
        head: A head whose margin is linear in z.
        weights: The global head.
        held: The client's training pairs.
        draws: Context and target of each step; they share no pair.

    Returns:
        For each strength the mean over steps; 0 for a client without pairs.
    """
    latent = weights["base"].shape[-1]
    log_vars = -(latent * torch.tensor(STRENGTHS, dtype=held.chosen.dtype)).log()
    total = held.weight.new_zeros(*held.count.shape, len(STRENGTHS))
    steps = draws.target.shape[-2]
    for step in range(steps):
        context = held.take(draws.context[..., step, :], draws.context_present[..., step, :])
        target = held.take(draws.target[..., step, :], draws.target_present[..., step, :])
        margins = head.margins(weights, target, modes(head, weights, context, log_vars), None)
        total += weighted_mean(choice_log_likelihood(margins), target.weight.unsqueeze(-2))
    return total / steps
