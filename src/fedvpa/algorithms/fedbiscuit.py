"""FedBiscuit, the selector half: U selectors, each trained by its own share of the clients, that vote.

Wu, Liu, Wang, Wang, Su, Gao: "Towards Federated RLHF with Aggregated Client Preference for LLMs", ICLR 2025,
arXiv 2407.03038.

Variant: a selector is a linear head on features of the frozen language model, r_u(h) = φ_u · h, in place of the paper's
LoRA adapter; the likelihood of a choice is σ(r_u(chosen) − r_u(rejected)), which no order of the answers can change.
φ_u is row u of the bilinear head's W, and z = e_u picks it.

    what                 the paper's                              here
    warm-up              every client trains selector u, R_w      rounds u·R_w … (u + 1)·R_w − 1
                         rounds for each u
    grouping             every R_g rounds, by U validation        grouping.py: balanced_greedy, first after the warm-up
                         losses of every client
    aggregation          φ_u ← (1 − |S_u|/N) φ_u                  φ_u + (1/N) Σ_{i∈S_u} (φ_i − φ_u): the same, as a sum
                              + (1/N) Σ_{i∈S_u} φ_i               of masked changes over a count
    result               majority vote of the U selectors         selector/vote.py

S_u are the clients of a round that trained selector u. N is the number of clients of that round that reported and hold
a pair, over all selectors, so the step of a selector is damped by its share of the round: if all N train it, it is
plain FedAvg (as in the warm-up), and if nobody does it stays. Clients count alike, however many pairs they hold, as in
the paper; the other methods here weight by pairs.

Deviations:
    - Only the clients of a round report, in every round, and the server groups by the last report of each. The paper
      asks all clients at a grouping. A report may so be R_g rounds old, or older where cohorts are small.
    - The losses are of the client's training pairs under the weights that it received, before it trains on them. The
      paper keeps a validation split for that; here it would be taken from the pairs that all methods train on.
    - A full selector keeps the bidders of least loss. The authors' code keeps the first of a random order.
    - A client that never reported trains the selector with the fewest clients, the first of equals, until the next
      grouping; several of them in one round are spread.
    - Final weights are the mean over the last rounds, as for every method here, but over none of the warm-up.

The result is one model for all: it has no latent, and clients differ only in what they train.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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
from fedvpa.algorithms.server.grouping import Timetable, regrouped, report_bounds
from fedvpa.algorithms.server.validation import Expected
from fedvpa.core.errors import ConfigError
from fedvpa.core.seeds import torch_generator
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.objectives.bradley_terry import choice_log_likelihood, weighted_mean
from fedvpa.selector.config import InferenceConfig, SelectorConfig
from fedvpa.selector.heads import HEADS
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import Selector

HEAD = HEADS["bilinear"]
SELECTORS = "head.personal"
"""The only weights that are trained: φ, shape [U, d]."""


@dataclass(frozen=True, repr=False, kw_only=True)
class BiscuitState(Averaged):
    """All that the server knows.

    Attributes:
        reports: Client id → ``losses``, its U losses when it was last heard, and ``label``, one-hot, the selector that
            it trains.
    """

    reports: Mapping[str, Tree] = field(default_factory=dict)


@dataclass(frozen=True)
class FedBiscuit(Plain):
    """FedBiscuit. See the module's docstring.

    Clients upload their losses, and the selector that they were told to train.

    Raises:
        ConfigError: For a head that the selectors would share, a warm-up that leaves no round, or a robust rule.
    """

    config: MethodConfig
    name: str = "fedbiscuit"
    reads_groups: bool = False

    def __post_init__(self) -> None:
        if self.config.selector.head != "bilinear":
            raise ConfigError(
                f"fedbiscuit trains one linear head per selector; selector.head={self.config.selector.head} is none.",
                fix="Use selector.head=bilinear.",
            )
        if self.config.server.rule != "mean":
            raise ConfigError(
                f"server.rule={self.config.server.rule} compares clients of one round, and those of fedbiscuit train "
                "different selectors: most leave each selector as it is.",
                fix="Use server.rule=mean; server.clip_norm keeps single updates from being large.",
            )
        _ = self.timetable

    @property
    def state_type(self) -> type[BiscuitState]:
        """Weights and reports."""
        return BiscuitState

    @property
    def personal(self) -> bool:
        """Never: all users get the vote."""
        return False

    @property
    def has_prototypes(self) -> bool:
        """Never: its prototypes number the selectors."""
        return False

    @property
    def selectors(self) -> int:
        """U."""
        return self.config.biscuit.selectors

    @property
    def timetable(self) -> Timetable:
        """Warm-up and groups."""
        own = self.config.biscuit
        return Timetable.of(own.selectors, self.rounds, own.warmup_rounds, own.regroup_every)

    def init(self, setting: FeatureSetting, seed: int) -> BiscuitState:
        """U random selectors; no shared part."""
        head = HEAD.init(setting.dimension, self._shape, torch_generator(seed, "init"))
        return BiscuitState(params=prefixed("head", head) | {"prototypes": torch.eye(self.selectors)})

    def broadcast(self, state: BiscuitState, client_ids: Sequence[str]) -> Broadcast:
        """All selectors, and for each client, one-hot, the one that it trains."""
        label = self.timetable.labels(state.round, state.reports, client_ids)
        return Broadcast(prefixed("params", state.params), {"label": label}, state.round)

    def expected(self, state: BiscuitState) -> Expected:
        """Changes of the selectors, the loss, and the report."""
        changed = shapes({SELECTORS: state.params[SELECTORS]})
        return Expected(changed, loss_bounds("reconstruction"), report_bounds(self.selectors))

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> Draws:
        """The same folds as every method."""
        return draw(seed, broadcast.round, client_id, size, self.config.local)

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """E local steps of the selector that the client was told to train, on the same targets as every method."""
        before, label = below("params", received), received["label"]
        means = StepMeans(self.config.local.steps)

        def loss(weights: Tree, step: int) -> Tensor:
            target = held.take(draws.target[..., step, :], draws.target_present[..., step, :])
            value = mean_losses_of(below("head", weights), target, label.unsqueeze(-2)).squeeze(-1)
            means.add(reconstruction=value)
            return value

        after = train_locally(before, loss, self.config.local, frozen=lambda name: name != SELECTORS)
        with torch.no_grad():
            everyone = torch.eye(self.selectors).expand(*label.shape, self.selectors)
            report = mean_losses_of(below("head", before), held, everyone)
        # The penalty on the weights moves the other selectors too.
        changed = after[SELECTORS].where(label.unsqueeze(-1) > 0, before[SELECTORS])
        present = (held.count > 0).to(held.weight.dtype)
        sums = weighted_delta({SELECTORS: before[SELECTORS]}, {SELECTORS: changed}, present)
        return ClientUpdate(sums | means.losses(present), {"losses": report, "label": label}), {}

    def server_update(self, state: BiscuitState, update: CohortUpdate) -> tuple[BiscuitState, dict[str, float]]:
        """Damped average of each selector; remember the reports; group when it is due, also if nobody reported."""
        new = federated_average(state, update, self.config.server, tail_from=self.timetable.warmup)
        remembered = {**state.reports, **update.own}
        if self.timetable.groups_after(new.round):
            remembered = regrouped(remembered)
        return replace(new, reports=remembered), mean_losses(update)

    def selector(self, state: BiscuitState) -> Selector:
        """The selectors with the averaged weights, that vote."""
        uniform = torch.full((self.selectors,), -math.log(self.selectors))
        return Selector(self._shape, InferenceConfig(method="vote"), state.final, uniform, torch.ones(()))

    @property
    def _shape(self) -> SelectorConfig:
        return self.config.selector.model_copy(update={"latent": self.selectors, "prototypes": self.selectors})


def mean_losses_of(head: Tree, pairs: Pairs, latents: Float[Tensor, "*clients m u"]) -> Float[Tensor, "*clients m"]:
    """Mean −log σ(margin) of the selectors that ``latents`` pick; log 2, a coin's, where there is no pair."""
    likelihood = choice_log_likelihood(HEAD.margins(head, pairs, latents, None))
    return weighted_mean(-likelihood, pairs.weight.unsqueeze(-2), empty=math.log(2))
