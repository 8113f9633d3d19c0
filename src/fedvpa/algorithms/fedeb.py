"""FedEB: federated empirical Bayes. A hierarchical prior over users' rewards, learned from additive score statistics.

Every user i has a linear reward u_i of its own, r(h) = u_i·h, and users come from a mixture:

    m_i ~ π,     u_i | m ~ N(μ_m, σ² I),     μ_m ~ N(0, I/τ),     Σ_pairs log σ(u_i·Δh).

``global``, ``local`` and the models of groups are limits of it: M = 1 with σ² → 0 is one ridge regression for all,
M = 1 with σ² given is a ridge regression for each user around the mean of all, and M components with σ² → 0 are groups
without individuals. Where a population stands between them is learned, not set: M, π, μ, σ² and τ by evidence, from
sums over clients. It is the mixture prior of FedVPA-GP (arXiv 2605.30873, E6) over components instead of over other
clients, so that nothing of one client reaches another; and it acts in inference, where a user's own pairs meet it.

    our symbol                 where
    x = ½ Σ w Δh, G            score and second moment of a client's pairs, client/score_statistics.py
    r                          memberships of a client over the components of a candidate
    scores, curvature          running means over visits of r (I + σ²G/4)⁻¹ x and r diag((I + σ²G/4)⁻¹ G/4)
    μ = S/(A + τ)              S and A are these means times the number of clients that they are worth
    τ, σ², M                   server/empirical_bayes.py

**Client** (E-step). It takes its own part out of S and A, so that no component is likely because the client's own noise
made it (a *cavity*), and gets the evidence of its pairs for each component; π and the evidence give r ∝ π_m
exp(gain · evidence). It sends r-weighted statistics, which are sums, and keeps its own part. Its part is known exactly
as long as all its replies arrive and no limit cuts them.

**Server** (M-step). Running means of what arrives (stochastic approximation of EM: Cappé and Moulines, Journal of the
Royal Statistical Society B 71, 2009); over the last ``server.average_tail`` of the rounds, plain means. σ² is where the
evidence of the clients, on a grid, is largest. Candidates of 1, 2, 3, 4, 6 and 8 components run side by side, and the
fewest that are not clearly worse than the best are kept.

**A user's reward.** The mode of the posterior around each component (Newton's method on the likelihood itself,
``selector/refinement.py``), weighted by the components' evidence. For a user who trained, the components are without
its own part; a new user has none in them.

z is the user's reward in the coordinates (u − Σ π_m μ_m)/c, with c such that components have norm 1 on average: as long
as the features, whatever ``selector.latent`` is. Features should be turned (``selector.rotation``), since curvature is
kept as a diagonal. ``local.*`` does not act on this method: nothing in it is a gradient step.

Not in the paper. Incremental EM on additive statistics is Neal and Hinton's (in "Learning in Graphical Models", 1998);
hierarchical priors by empirical Bayes are as old as Efron and Morris (JASA 70, 1975).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, FeatureSetting, Plain
from fedvpa.algorithms.client.draws import Draws, without_steps
from fedvpa.algorithms.client.own_part import STATISTICS, after_visit, own_part
from fedvpa.algorithms.client.score_statistics import Spectrum, contribution, log_evidence
from fedvpa.algorithms.client.widths import HERE, neighbours, on_the_grid
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.server.aggregation import loss_bounds, mean_losses, shapes, weighted_delta
from fedvpa.algorithms.server.empirical_bayes import fewest, segments
from fedvpa.algorithms.server.hierarchy import EmpiricalBayes, component_means
from fedvpa.algorithms.server.validation import Bounds, Expected, PrivatePart, Released
from fedvpa.core.seeds import numpy_generator
from fedvpa.core.tree import Tree, below, combine, prefixed
from fedvpa.selector.config import InferenceConfig
from fedvpa.selector.heads import HEADS
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.prior import Prior, isotropic
from fedvpa.selector.refinement import laplace
from fedvpa.selector.selector import Selector

CANDIDATES = (1, 2, 3, 4, 6, 8)
"""Numbers of components that are tried, as long as two clients are left for each. Chosen by us."""

WIDTHS = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
"""Variances σ² that are tried. Chosen by us, for features of norm √D, up to margins of several nats."""

NARROWEST = 1e-8
"""The variance that stands for 0 in a trained selector, whose prior is a density. Chosen by us."""

SMALLEST_SHARE = 0.02
"""Least share of a component in π: chosen by us, so that a preference that a cohort lacks is not forgotten."""

WORST = -1.0
"""Evidence is reported per pair, in nats above chance, and not below this, so that no client decides alone. No report
can exceed log 2. Chosen by us."""

PAIRS = 32
"""How many pairs of a client the first clip under differential privacy is made for. Chosen by us."""

CURVATURE_SHARE = 0.3
"""The share of curvature in a client's vector under differential privacy. It is much alike among clients, so it bears
more noise than scores. Chosen by us."""

CONCENTRATION = 5.0
"""Memberships at the start are drawn from Dirichlet(5): near even. Chosen by us."""


@dataclass(frozen=True)
class FedEB(Plain):
    """Federated empirical Bayes. See the module's docstring."""

    config: MethodConfig
    name: str = "fedeb"
    reads_groups: bool = False
    personal: bool = True
    has_prototypes: bool = True
    state_type: type[EmpiricalBayes] = EmpiricalBayes

    @property
    def rounds(self) -> int:
        """Rounds in all."""
        return self.config.server.rounds

    @property
    def widths(self) -> tuple[float, ...]:
        """The variances that are tried."""
        return WIDTHS if self.config.eb.width is None else (self.config.eb.width,)

    def sizes(self, clients: int) -> tuple[int, ...]:
        """How many components each candidate has, in a federation of so many clients (0 for unknown)."""
        given = self.config.eb.components
        if given is not None:
            return (given,)
        return tuple(size for size in CANDIDATES if size == 1 or not clients or 2 * size <= clients)

    def init(self, setting: FeatureSetting, seed: int) -> EmpiricalBayes:
        """No statistics yet; even shares; the first variance."""
        sizes, zero = self.sizes(setting.clients), torch.zeros(())
        components, candidates = sum(sizes), len(sizes)
        even = torch.cat([torch.full((size,), 1 / size) for size in sizes])
        empty = torch.zeros(components, setting.dimension)
        return EmpiricalBayes(
            {"scores": empty, "curvature": self._reduced(empty).clone()},
            setting.clients,
            members=even,
            squares=even.square(),
            evidence=torch.zeros(candidates, len(self.widths)),
            products=torch.zeros(candidates, candidates),
            width=torch.zeros(candidates, dtype=torch.int64),
            clock=zero,
            shares=zero.clone(),
            rounds=zero.clone(),
            spectrum=self._spectrum(setting),
        )

    def broadcast(self, state: EmpiricalBayes, client_ids: Sequence[str]) -> Broadcast:
        """The running means, π, τ, σ², and what a visit of this round will weigh."""
        step = self._step(state.round)
        shared = prefixed("params", state.params) | {
            "log_prior": self._log_prior(state),
            "precision": self._precision(state),
            "width": torch.nn.functional.one_hot(state.width, len(self.widths)).to(torch.float32),
            "worth": state.worth,
            "clock": state.clock,
            "share": torch.tensor(step / max(len(client_ids), 1)),
            "left": torch.tensor(_left(step)),
            "starts": torch.tensor(float(self._starts(state.round))),
        }
        if self.config.eb.curvature == "shared":
            shared |= {"spectrum": state.spectrum}
        return Broadcast(shared, {}, state.round)

    def expected(self, state: EmpiricalBayes) -> Expected:
        """Changes of the running means, memberships, evidence."""
        components = len(state.members)
        candidates, tried = state.evidence.shape
        most = max(WORST**2, math.log(2) ** 2)
        chosen: Released = "noised" if candidates * tried > 1 else "kept"  # one candidate is chosen by nothing
        sums = {
            "members": Bounds((components,), 0.0, 1.0, per="weight", longest=math.sqrt(candidates)),
            "squares": Bounds((components,), 0.0, 1.0, per="weight", released="kept"),
            "evidence": Bounds((candidates, tried), WORST, math.log(2), per="weight", released=chosen),
            "products": Bounds((candidates, candidates), -most, most, per="weight", released=chosen),
        }
        return Expected(shapes(state.params), sums | loss_bounds("evidence"), parts=self._parts(state))

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> Draws:
        """Random memberships for the first rounds, the same for a client in each of them, each component's its own."""
        if not broadcast.shared["starts"]:
            return without_steps()
        sizes = self._sizes_of(len(broadcast.shared["log_prior"]), len(broadcast.shared["width"]))
        gammas = [
            [
                numpy_generator(seed, "membership", count, place, client_id).gamma(CONCENTRATION)
                for place in range(count)
            ]
            for count in sizes
        ]
        return without_steps(torch.cat([torch.tensor(some) / sum(some) for some in gammas]).to(torch.float32))

    def load_private(self, private: Tree, received: Tree) -> Tree:
        """The client's own part of the running means: nothing at first."""
        if private:
            return private
        empty = {name: torch.zeros_like(received[f"params.{name}"]) for name in STATISTICS}
        return empty | {"clock": received["clock"].clone()}

    def store_private(self, private: Tree, tensors: Tree, received: Tree) -> Tree:
        """The same after this visit."""
        return tensors

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        """E-step: evidence of the client's pairs under components without its own part, memberships, statistics."""
        before, spectrum = below("params", received), Spectrum.of(held)
        own, width = own_part(private, received["clock"]), received["width"]
        place = width.argmax(-1)
        sizes = self._sizes_of(before["scores"].shape[-2], width.shape[-2])
        tried = neighbours(place, torch.tensor(self.widths))[..., segments(sizes), :]
        variance = tried[..., HERE]
        evidence = log_evidence(held, spectrum, component_means(before, own, received), tried)
        joint = received["log_prior"].unsqueeze(-1) + evidence
        member = _softmax(received["log_prior"] + self.config.eb.gain * evidence[..., HERE], sizes)
        if draws.memberships.shape[-1]:
            member = draws.memberships
        score, curvature = contribution(held, spectrum, variance)
        statistics = dict(zip(STATISTICS, (score, self._reduced(curvature)), strict=True))
        mine = {name: member.unsqueeze(-1) * leaf for name, leaf in statistics.items()}
        count = held.weight.sum(-1)
        weight = (count > 0).to(count.dtype)
        each = torch.stack([part.logsumexp(-2) for part in joint.split(sizes, -2)], dim=-2)
        above = each / count.clamp(min=torch.finfo(count.dtype).tiny)[..., None, None] + math.log(2)
        above = above.clamp(WORST, math.log(2)) * weight[..., None, None]
        now = above[..., HERE]
        sums = weighted_delta(before, mine, weight) | {
            "members": weight.unsqueeze(-1) * member,
            "squares": weight.unsqueeze(-1) * member.square(),
            "evidence": on_the_grid(above, place, width.shape[-1]),
            "products": now.unsqueeze(-1) * now.unsqueeze(-2),
            "loss.evidence": -now.amax(-1),
        }
        return ClientUpdate(sums), after_visit(own, mine, received)

    def server_update(self, state: EmpiricalBayes, update: CohortUpdate) -> tuple[EmpiricalBayes, dict[str, float]]:
        """M-step: follow the running means; σ² where the evidence is largest."""
        if not update.sums or not update.sums["weight"] > 0:
            return replace(state, round=state.round + 1), {}
        sums, weight, step = update.sums, update.sums["weight"], self._step(state.round)
        params = combine(lambda old, delta: old + step * delta / weight, state.params, below("delta", sums))

        def follow(old: Tensor, name: str) -> Tensor:
            return torch.lerp(old, sums[name] / weight, step) if name in sums else old

        evidence, left = follow(state.evidence, "evidence"), _left(step)
        # Where squares do not leave a client, memberships bound them: both are alike where they are 0 or 1.
        squares = follow(state.squares, "squares" if "squares" in sums else "members")
        new = replace(
            state,
            params=params,
            members=follow(state.members, "members"),
            squares=squares,
            evidence=evidence,
            products=follow(state.products, "products"),
            width=self._width(state, evidence),
            clock=state.clock + math.log(left),
            shares=left**2 * state.shares + step**2 / weight,
            rounds=left**2 * state.rounds + step**2,
            round=state.round + 1,
        )
        return new, mean_losses(update)

    def selector(self, state: EmpiricalBayes) -> Selector:
        """The candidate that is kept, as the prior over z of a head that z is the whole of."""
        chosen = self.chosen(state)
        means = component_means(state.params, None, self._shared(state))[chosen]
        log_prior = self._log_prior(state)[chosen]
        base = (log_prior.exp().unsqueeze(-1) * means).sum(0)
        scale = _scale(means - base, self._variance(state))
        size = means.shape[-1]
        shape = self.config.selector.model_copy(update={"head": "bilinear", "latent": size, "prototypes": len(means)})
        prior = isotropic(log_prior, (means - base) / scale, math.log(self._variance(state) / scale**2))
        params = {
            "head.base": base,
            "head.personal": scale * torch.eye(size),
            "prototypes": prior.means,
            "log_vars": prior.log_vars,
        }
        return Selector(shape, InferenceConfig(method="laplace"), params, log_prior, torch.ones(()))

    def infer_members(self, state: EmpiricalBayes, context: Pairs, private: Sequence[Tree]) -> Posterior:
        """The posterior of clients, each under components without its own part; see :class:`InfersMembers`."""
        selector, chosen, shared = self.selector(state), self.chosen(state), self._shared(state)
        parts = [own_part(one, state.clock) if one else None for one in private]
        means = torch.stack([component_means(state.params, part, shared)[chosen] for part in parts])
        weights = below("head", selector.params)
        latent = (means - weights["base"]) / weights["personal"][0, 0]
        prior = Prior(selector.log_prior, latent, selector.params["log_vars"].expand_as(latent))
        return laplace(HEADS["bilinear"], weights, context, prior, selector.gain)

    def chosen(self, state: EmpiricalBayes) -> slice:
        """Which of the components are those of the candidate that is kept."""
        sizes = self.sizes(state.clients)
        place = self._place(state)
        start = sum(sizes[:place])
        return slice(start, start + sizes[place])

    def _parts(self, state: EmpiricalBayes) -> dict[str, PrivatePart]:
        """Scores and curvature, each bounded on its own: starting from those of random pairs of features of norm √d."""
        size = math.prod(state.params["scores"].shape[1:])
        score, curvature = math.sqrt(PAIRS * size / 2), PAIRS / 2 * math.sqrt(state.params["curvature"].shape[1])
        return {"scores": PrivatePart(1.0, score), "curvature": PrivatePart(CURVATURE_SHARE, curvature)}

    def _spectrum(self, setting: FeatureSetting) -> Float[Tensor, " d"]:
        """How curvature is shared out over directions where one number is sent for all of them."""
        if self.config.eb.curvature == "diagonal" or not setting.spectrum:
            return torch.ones(setting.dimension)
        return torch.tensor(setting.spectrum, dtype=torch.float32)

    def _reduced(self, curvature: Float[Tensor, "*clients C d"]) -> Float[Tensor, "*clients C e"]:
        """Curvature as it is kept: in every direction, or its mean."""
        return curvature if self.config.eb.curvature == "diagonal" else curvature.mean(-1, keepdim=True)

    # What follows from the state

    def _place(self, state: EmpiricalBayes) -> int:
        at_width = state.evidence.gather(-1, state.width.unsqueeze(-1)).squeeze(-1)
        return fewest(at_width, state.products, float(state.worth), self.sizes(state.clients))

    def _variance(self, state: EmpiricalBayes) -> float:
        """σ² of the candidate that is kept."""
        return max(self.widths[int(state.width[self._place(state)])], NARROWEST)

    def _width(self, state: EmpiricalBayes, evidence: Float[Tensor, "K V"]) -> Int[Tensor, " K"]:
        """Where the evidence is largest: for one component always, for several once they have come apart."""
        apart = state.round >= self.config.eb.groups_first * self.rounds
        single = torch.tensor(self.sizes(state.clients)) == 1
        return torch.where(single | torch.tensor(apart), evidence.argmax(-1), state.width)

    def _shared(self, state: EmpiricalBayes) -> Tree:
        return {"worth": state.worth, "precision": self._precision(state), "spectrum": state.spectrum}

    def _precision(self, state: EmpiricalBayes) -> Float[Tensor, " C"]:
        """τ of each component: one for each candidate."""
        sizes, given = self.sizes(state.clients), self.config.eb.precision
        return torch.full((sum(sizes),), given) if given is not None else state.precisions(sizes)

    def _log_prior(self, state: EmpiricalBayes) -> Float[Tensor, " C"]:
        """Log π of each candidate's components; no share below ``SMALLEST_SHARE``."""
        return state.log_shares(self.sizes(state.clients), SMALLEST_SHARE)

    def _sizes_of(self, components: int, candidates: int) -> tuple[int, ...]:
        """The sizes of the candidates, as far as a client can tell: from how many there are."""
        given = self.config.eb.components
        return (components,) if given is not None else CANDIDATES[:candidates]

    # The timetable

    def _starts(self, round_: int) -> bool:
        """Whether memberships are still drawn."""
        return round_ < max(1, self.config.eb.start * self.rounds)

    def _step(self, round_: int) -> float:
        """ρ of a round: a plain mean at first, a window of 1/``step`` rounds, then a plain mean of the last rounds."""
        step, tail = self.config.eb.step, math.ceil(self.rounds * (1 - self.config.server.average_tail))
        if round_ < tail or not self.config.server.average_tail:
            return max(step, 1 / (round_ + 1))
        return min(max(step, 1 / (round_ + 1)), 1 / (round_ - tail + 1 / step))


def _left(step: float) -> float:
    """1 − ρ, and a little where the first round replaces everything: its logarithm is finite."""
    return max(1 - step, 1e-6)


def _softmax(logits: Float[Tensor, "*clients C"], sizes: Sequence[int]) -> Float[Tensor, "*clients C"]:
    """Over the components of each candidate."""
    return torch.cat([part.softmax(-1) for part in logits.split(list(sizes), -1)], dim=-1)


def _scale(offsets: Float[Tensor, "m d"], variance: float) -> float:
    """c, so that components lie at norm 1 from their mean on average, or users do where there is one component."""
    spread = float(offsets.norm(dim=-1).mean())
    return spread if spread > 1e-6 else max(math.sqrt(variance * offsets.shape[-1]), 1e-3)
