"""What the server of a hierarchical prior knows: running means of the clients' statistics, and the means they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedvpa.algorithms.server.empirical_bayes import best_precision, effective_clients, segments
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree


@dataclass(frozen=True, repr=False)
class EmpiricalBayes:
    """All that the server knows. C components of K candidates stand in one row, V variances are tried.

    Attributes:
        params: ``scores`` and ``curvature`` [C, d], running means over visits.
        clients: N, how many clients there are; 0 if unknown.
        members: Running means of memberships [C].
        squares: Running means of their squares [C].
        evidence: Running means of the evidence per pair, in nats above chance [K, V].
        products: Running means of the products of two candidates' evidence, at their own variances [K, K].
        width: The place of each candidate's variance among those that are tried [K].
        clock: Σ log(1 − ρ) of all rounds: how much of an old visit is left.
        shares: Σ over visits of their squared weight in the running means.
        rounds: Σ over rounds of the squared weight of their cohort.
        spectrum: What the curvature of a direction is relative to the mean [d]; ones unless it is public.
        round: Rounds completed.
    """

    params: Tree
    clients: int
    members: Float[Tensor, " C"]
    squares: Float[Tensor, " C"]
    evidence: Float[Tensor, "K V"]
    products: Float[Tensor, "K K"]
    width: Int[Tensor, " K"]
    clock: Float[Tensor, ""]
    shares: Float[Tensor, ""]
    rounds: Float[Tensor, ""]
    spectrum: Float[Tensor, " d"]
    round: int = 0

    __repr__ = short_repr

    @property
    def worth(self) -> Float[Tensor, ""]:
        """How many clients the running means stand for; 1 before any."""
        if not self.shares > 0:
            return torch.ones(())
        return effective_clients(self.clients, self.shares, self.rounds)

    @property
    def final(self) -> Tree:
        """What a trained selector is made of."""
        return self.params

    def precisions(self, sizes: Sequence[int]) -> Float[Tensor, " C"]:
        """τ of each component, by evidence: one for all components of a candidate.

        Args:
            sizes: How many components each candidate has.
        """
        scores = self.worth * self.params["scores"]
        curvature = self.worth * self.params["curvature"] * self.spectrum
        noise = curvature * (self.squares / self.members.clamp(min=1e-6)).unsqueeze(-1)
        parts = zip(*(leaf.split(list(sizes)) for leaf in (scores, curvature, noise)), strict=True)
        return torch.stack([best_precision(*part).float() for part in parts])[segments(sizes)]

    def log_shares(self, sizes: Sequence[int], least: float) -> Float[Tensor, " C"]:
        """Log π of each candidate's components.

        Args:
            sizes: How many components each candidate has.
            least: Of a share, before those of a candidate are brought to the sum 1.
        """
        shares = [part.clamp(min=least) for part in self.members.split(list(sizes))]
        return torch.cat([(part / part.sum()).log() for part in shares])


def component_means(params: Tree, own: Tree | None, shared: Tree) -> Float[Tensor, "*clients C d"]:
    """μ = S/(A + τ), without a client's own part if one is given."""
    scores, curvature = params["scores"], params["curvature"]
    if own is not None:
        scores, curvature = scores - own["scores"], (curvature - own["curvature"]).clamp(min=0)
    worth = shared["worth"][..., None, None]
    if "spectrum" in shared:
        curvature = curvature * shared["spectrum"].unsqueeze(-2)
    return worth * scores / (worth * curvature + shared["precision"].unsqueeze(-1))
