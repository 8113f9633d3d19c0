"""What the server learns about the prototypes: their prior, the scale of evidence, who is assigned to which.

Each client's likelihood of its own pairs at the prototypes is *evidence*. Clients send two additive statistics of it,
and the server follows them with running means: the M-step of a federated expectation–maximisation. The balanced
assignment is the paper's y* (E9), from the posteriors that the server remembers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.server.aggregation import Averaged
from fedvpa.algorithms.server.validation import Bounds
from fedvpa.core.seeds import entropy
from fedvpa.core.tree import Tree
from fedvpa.selector.prototypes import balanced_assignment

MEMORY = 256
"""Posteriors that the server remembers for the balanced assignment, whose cost grows with their cube, and components
whose weights a client remembers. Chosen by us."""

SMALLEST_PRIOR = 0.02
"""Least share of a prototype in the prior: chosen by us, so that a preference that a cohort lacks is not forgotten."""


@dataclass(frozen=True, repr=False, kw_only=True)
class PrototypeState(Averaged):
    """All that the server of a method with prototypes knows.

    Attributes:
        log_prior: log π over the prototypes, shape [m].
        evidence: Running mean square of the clients' centred log-likelihoods at the prototypes; NaN before the first.
        posteriors: Client id → the posterior that it uploaded last, ``mean`` and ``log_var``, each [k]; the most recent
            ``MEMORY`` clients, oldest first.
        components: Ids of the last cohort, whose posteriors are the components of the mixture prior.
        seed: Names the components to clients, in place of their ids.
    """

    log_prior: Tensor
    evidence: Tensor = field(default_factory=lambda: torch.tensor(float("nan")))
    posteriors: Mapping[str, Tree] = field(default_factory=dict)
    components: tuple[str, ...] = ()
    seed: int = 0


def component_keys(state: PrototypeState) -> Int[Tensor, " j"]:
    """What stands for each component of the mixture prior: the same number in every round, and no id."""
    keys = [entropy(state.seed, "component", name) % 2**63 for name in state.components]
    return torch.tensor(keys, dtype=torch.int64)


def own_component(state: PrototypeState, client_ids: Sequence[str]) -> Int[Tensor, " clients"]:
    """The place of each client's own posterior among the components; −1 for none."""
    places = {name: place for place, name in enumerate(state.components)}
    return torch.tensor([places.get(name, -1) for name in client_ids], dtype=torch.int64)


def gaussian_bounds(latent: int) -> dict[str, Bounds]:
    """The bounds of a client's posterior over z ∈ Rᵏ."""
    return {"mean": Bounds((latent,), -1e3, 1e3), "log_var": Bounds((latent,), -30.0, 30.0)}


def evidence_bounds(prototypes: int) -> dict[str, Bounds]:
    """The bounds of :func:`evidence_statistics`."""
    return {
        "clients": Bounds((), 0.0, 1.0),
        "evidence": Bounds((), 0.0, 1e12),
        "responsibility": Bounds((prototypes,), 0.0, 1.0),
    }


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


def follow_evidence(state: PrototypeState, update: CohortUpdate, rate: float, *, learn_prior: bool) -> PrototypeState:
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


def remember(known: Mapping[str, Tree], reported: Mapping[str, Tree]) -> dict[str, Tree]:
    """The posteriors of the ``MEMORY`` clients that reported last, oldest first; all of a larger cohort."""
    older = {name: value for name, value in known.items() if name not in reported}
    return dict([*older.items(), *reported.items()][-max(MEMORY, len(reported)) :])


def learned_logits(private: Tree) -> dict[int, float]:
    """Key of a component → log π, of a client's private state."""
    if "keys" not in private:
        return {}
    return dict(zip(private["keys"].tolist(), private["logits"].tolist(), strict=True))


def with_logits(private: Tree, keys: Int[Tensor, " j"], logits: Float[Tensor, " j"]) -> Tree:
    """``keys`` and ``logits`` of the ``MEMORY`` components that a client met last, those of this round at the end."""
    learned = dict(zip(keys.tolist(), logits.tolist(), strict=True))
    older = {key: value for key, value in learned_logits(private).items() if key not in learned}
    kept = [*older.items(), *learned.items()][-max(MEMORY, len(learned)) :]
    return {
        "keys": torch.tensor([key for key, _ in kept], dtype=torch.int64),
        "logits": torch.tensor([value for _, value in kept], dtype=torch.float32),
    }


def assigned_prototypes(
    state: PrototypeState, client_ids: Sequence[str], prototypes: Float[Tensor, "m k"]
) -> Float[Tensor, "clients m"]:
    """y* (E9): for each client, one-hot, its prototype in a balanced assignment of the remembered posteriors.

    Zero for clients whose posterior is not remembered.
    """
    label = torch.zeros(len(client_ids), len(prototypes), dtype=state.log_prior.dtype)
    known = [position for position, name in enumerate(client_ids) if name in state.posteriors]
    if known:
        names = list(state.posteriors)
        means = torch.stack([state.posteriors[name]["mean"] for name in names])
        assigned = dict(zip(names, balanced_assignment(means, prototypes), strict=True))
        for position in known:
            label[position, assigned[client_ids[position]]] = 1.0
    return label
