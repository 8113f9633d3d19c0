"""The evidence of clients about prototypes: the E-step's statistics, and what the server learns from their sums.

The log-likelihood of a client's own pairs at each prototype is its *evidence*. Clients send additive statistics of it,
and the server follows them with running means: how likely each prototype is (the M-step of π), and how far the evidence
spreads, which sets the *gain*, the factor on evidence in responsibilities.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.server.aggregation import Averaged
from fedvpa.algorithms.server.validation import Bounds
from fedvpa.core.tree import Tree

SMALLEST_PRIOR = 0.02
"""Least share of a prototype in the prior: chosen by us, so that a preference that a cohort lacks is not forgotten."""


FIRST_SPREAD = 1e-3
"""What clients compare the first spread with, in nats². Chosen by us: far below that of a head that has learned."""

MOST_OCTAVES = 3.0
"""By how many octaves a report may differ from what is known. Chosen by us: the first head's spread is reached in a few
rounds, and noise moves it by less than half an octave."""


@dataclass(frozen=True, repr=False, kw_only=True)
class EvidenceState(Averaged):
    """Weights, and what the sums of evidence taught the server.

    Attributes:
        log_prior: log π over the prototypes, shape [m].
        spread: Running mean square of the clients' centred evidence, in nats²; NaN before the first.
    """

    log_prior: Tensor
    spread: Tensor = field(default_factory=lambda: torch.tensor(float("nan")))


EvidenceT = TypeVar("EvidenceT", bound=EvidenceState)


def evidence_bounds(prototypes: int) -> dict[str, Bounds]:
    """The bounds of :func:`evidence_statistics`."""
    return {
        "clients": Bounds((), 0.0, 1.0, released="counted"),
        "spread": Bounds((), 0.0, 1e12, released="kept"),
        "octaves": Bounds((), -MOST_OCTAVES, MOST_OCTAVES),
        "responsibility": Bounds((prototypes,), 0.0, 1.0, longest=1.0),
    }


def evidence_statistics(
    evidence: Float[Tensor, "*clients m"],
    responsibility: Float[Tensor, "*clients m"],
    pairs: Float[Tensor, "*clients"],
    known_spread: Float[Tensor, "*#clients"],
) -> Tree:
    """What clients send about their evidence: sums that add up over clients, zero for a client without pairs.

    Args:
        evidence: Log-likelihood of the client's pairs at each of the m prototypes, in nats.
        responsibility: The prototypes' posterior probabilities for the client.
        pairs: How many pairs it holds.
        known_spread: From :func:`told_spread`.

    Returns:
        ``clients`` (1 for each), ``spread`` (variance of the evidence over prototypes), ``octaves`` (by how many that
        differs from ``known_spread``, which is bounded and so can be noised), ``responsibility``.
    """
    centred = evidence - evidence.mean(-1, keepdim=True)
    present = (pairs > 0).to(centred.dtype)
    spread = centred.square().sum(-1) / max(evidence.shape[-1] - 1, 1)
    octaves = (spread.clamp(min=1e-30) / known_spread).log2().clamp(-MOST_OCTAVES, MOST_OCTAVES)
    return {
        "clients": present,
        "spread": present * spread,
        "octaves": present * octaves,
        "responsibility": present.unsqueeze(-1) * responsibility,
    }


def follow_evidence(state: EvidenceT, update: CohortUpdate, rate: float, *, learn_prior: bool) -> EvidenceT:
    """Move the running means of the evidence's spread and of the prior towards a cohort's.

    Args:
        state: What the server knows.
        update: A cohort's sums, with those of :func:`evidence_statistics`; where ``spread`` does not leave the clients,
            it follows ``octaves``.
        rate: Weight of the cohort in the running means.
        learn_prior: Whether the prior over prototypes moves; no share falls below ``SMALLEST_PRIOR``.
    """
    if not update.sums or not update.sums["clients"] > 0:
        return state
    clients = update.sums["clients"]
    if "spread" in update.sums:
        found = update.sums["spread"] / clients
        spread = found if torch.isnan(state.spread) else torch.lerp(state.spread, found, rate)
    else:
        spread = told_spread(state) * 2 ** (update.sums["octaves"] / clients)
    log_prior = state.log_prior
    if learn_prior:
        share = torch.lerp(log_prior.exp(), update.sums["responsibility"] / clients, rate).clamp(min=SMALLEST_PRIOR)
        log_prior = (share / share.sum()).log()
    return replace(state, spread=spread, log_prior=log_prior)


def told_spread(state: EvidenceState) -> Float[Tensor, ""]:
    """The spread as clients are told it, in nats²."""
    return torch.where(torch.isnan(state.spread), FIRST_SPREAD, state.spread).clamp(min=1e-12)


def evidence_gain(spread: Float[Tensor, ""], target: float) -> Float[Tensor, ""]:
    """The gain: max(1, target / √spread), so that evidence times gain has a root mean square of at least ``target``.

    It is 1 for ``target`` = 0, before the first evidence (NaN), and with a single prototype (``spread`` = 0).
    """
    if not target or not spread > 0:
        return torch.ones_like(spread)
    return torch.clamp(target / spread.sqrt().clamp(min=1e-6), min=1.0)


def warming_up(config: MethodConfig, round_: int) -> bool:
    """Whether all clients share one head in this round (z = 0), before prototypes may separate them."""
    return round_ < config.variational.warmup * config.server.rounds
