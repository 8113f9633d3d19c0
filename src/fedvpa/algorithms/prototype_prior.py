"""What the server learns about the prototypes: their prior, the scale of evidence, who is assigned to which.

Each client's likelihood of its own pairs at the prototypes is *evidence*. Clients send two additive statistics of it,
and the server follows them with running means: the M-step of a federated expectation–maximisation. The balanced
assignment is the paper's y* (E9), from the posteriors that the server remembers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.base import CohortUpdate, Gaussian, ServerState
from fedvpa.core.tree import Tree
from fedvpa.selector.prototypes import balanced_assignment

MEMORY = 256
"""Posteriors that the server remembers for the balanced assignment: chosen by us; its cost grows with their cube."""

SMALLEST_PRIOR = 0.02
"""Least share of a prototype in the prior: chosen by us, so that a preference that a cohort lacks is not forgotten."""


def evidence_statistics(
    likelihood: Float[Tensor, "*clients m"],
    responsibility: Float[Tensor, "*clients m"],
    pairs: Float[Tensor, "*clients"],
) -> Tree:
    """What clients send about their evidence: sums that add up over clients, zero for a client without pairs.

    Args:
        likelihood: Log-likelihood of the client's pairs at each of the m prototypes.
        responsibility: The prototypes' posterior probabilities for the client.
        pairs: How many pairs it holds.

    Returns:
        ``clients`` (1 for each), ``evidence`` (variance of the likelihood over prototypes), ``responsibility``.
    """
    centred = likelihood - likelihood.mean(-1, keepdim=True)
    present = (pairs > 0).to(centred.dtype)
    spread = centred.square().sum(-1) / max(likelihood.shape[-1] - 1, 1)
    return {
        "clients": present,
        "evidence": present * spread,
        "responsibility": present.unsqueeze(-1) * responsibility,
    }


def follow_evidence(state: ServerState, update: CohortUpdate, rate: float, *, learn_prior: bool) -> ServerState:
    """Move the running means of the evidence's spread and of the prior towards a cohort's.

    Args:
        state: What the server knows.
        update: A cohort's sums, with those of :func:`evidence_statistics`.
        rate: Weight of the cohort in the running means.
        learn_prior: Whether the prior over prototypes moves; no share falls below ``SMALLEST_PRIOR``.
    """
    clients = update.sums["clients"]
    if not clients > 0:
        return state
    spread = update.sums["evidence"] / clients
    evidence = spread if torch.isnan(state.evidence) else torch.lerp(state.evidence, spread, rate)
    log_prior = state.log_prior
    if learn_prior:
        share = torch.lerp(log_prior.exp(), update.sums["responsibility"] / clients, rate).clamp(min=SMALLEST_PRIOR)
        log_prior = (share / share.sum()).log()
    return replace(state, evidence=evidence, log_prior=log_prior)


def evidence_gain(evidence: Float[Tensor, ""], target: float) -> Float[Tensor, ""]:
    """The factor on the evidence in responsibilities: max(1, target / rms of the centred evidence).

    It is 1 for ``target`` = 0 and before the first evidence (NaN).
    """
    if not target or torch.isnan(evidence):
        return torch.ones_like(evidence)
    return torch.clamp(target / evidence.sqrt().clamp(min=1e-6), min=1.0)


def remember(known: Mapping[str, Gaussian], reported: Mapping[str, Gaussian]) -> dict[str, Gaussian]:
    """The posteriors of the ``MEMORY`` clients that reported last, oldest first; all of a larger cohort."""
    older = {name: value for name, value in known.items() if name not in reported}
    return dict([*older.items(), *reported.items()][-max(MEMORY, len(reported)) :])


def assigned_prototypes(
    state: ServerState, client_ids: Sequence[str], prototypes: Float[Tensor, "m k"]
) -> Float[Tensor, "clients m"]:
    """y* (E9): for each client, one-hot, its prototype in a balanced assignment of the remembered posteriors.

    Zero for clients whose posterior is not remembered.
    """
    label = torch.zeros(len(client_ids), len(prototypes), dtype=state.log_prior.dtype)
    known = [position for position, name in enumerate(client_ids) if name in state.posteriors]
    if known:
        names = list(state.posteriors)
        means = torch.stack([state.posteriors[name][0] for name in names])
        assigned = dict(zip(names, balanced_assignment(means, prototypes), strict=True))
        for position in known:
            label[position, assigned[client_ids[position]]] = 1.0
    return label
