"""What the server does with single updates before they count: screening, clipping, and robust rules.

An update is screened always: one that is not finite, of a wrong shape, or absurdly large is rejected with its client's
id, and the round goes on without it. The rules are coordinate-wise median and trimmed mean (Yin et al., ICML 2018),
Krum (Blanchard et al., NeurIPS 2017) and, as everywhere else, the weighted mean.

Rules other than the mean need every client's update on its own. They cannot be combined with sums over several clients,
hence not with secure aggregation either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.config import Rule, ServerConfig
from fedvpa.algorithms.rejections import NOT_FINITE
from fedvpa.core.tree import Tree, below, prefixed

ABSURD = 100.0
"""A change with a norm above this many times the median of its cohort is rejected. Chosen by us: honest clients of
unequal size stay within ten times."""


@dataclass(frozen=True)
class Part:
    """The update of one client, or the sum over the clients of one node.

    Attributes:
        clients: Their ids.
        update: Its sums, and what is not additive.
    """

    clients: tuple[str, ...]
    update: CohortUpdate


def aggregate(
    parts: Sequence[Part], params: Mapping[str, Tensor], config: ServerConfig
) -> tuple[CohortUpdate, dict[str, str]]:
    """One update for the cohort.

    Args:
        parts: What came back.
        params: The server's weights: every ``delta.*`` must have their shape.
        config: ``rule``, ``clip_norm`` and ``malicious``.

    Returns:
        The update to give to ``server_update``, and rejected client id → reason.
    """
    kept, rejected = screen(parts, params)
    if config.clip_norm is not None:
        kept = [Part(part.clients, clipped(part.update, config.clip_norm)) for part in kept]
    together = reduce(CohortUpdate.__add__, (part.update for part in kept), CohortUpdate({}))
    if config.rule == "mean" or not together.sums or not together.sums["weight"] > 0:
        return together, rejected
    sums = robust_sums([part.update.sums for part in kept], config.rule, config.malicious)
    return CohortUpdate(sums, together.own), rejected


def screen(parts: Sequence[Part], params: Mapping[str, Tensor]) -> tuple[list[Part], dict[str, str]]:
    """The parts that may count, and client id → reason for the others."""
    reasons = [_problem(part.update, params) for part in parts]
    norms = {row: float(norm(parts[row].update)) for row, reason in enumerate(reasons) if reason is None}
    positive = [value for value in norms.values() if value > 0]
    limit = ABSURD * float(torch.tensor(positive).median()) if len(positive) > 2 else float("inf")
    for row, value in norms.items():
        if value > limit:
            reasons[row] = f"its norm {value:.3g} is above {ABSURD:.0f} times the cohort's median"
    kept = [part for part, reason in zip(parts, reasons, strict=True) if reason is None]
    rejected = {
        name: reason for part, reason in zip(parts, reasons, strict=True) if reason is not None for name in part.clients
    }
    return kept, rejected


def _problem(update: CohortUpdate, params: Mapping[str, Tensor]) -> str | None:
    for name, leaf in below("delta", update.sums).items():
        if name not in params or leaf.shape != params[name].shape:
            known = tuple(params[name].shape) if name in params else "no such weight"
            return f"delta.{name} has shape {tuple(leaf.shape)}, and the server {known}"
    own = [leaf for mine in update.own.values() for leaf in mine.values()]
    for leaf in [*update.sums.values(), *own]:
        if not torch.isfinite(leaf).all():
            return NOT_FINITE
    return None


def norm(update: CohortUpdate) -> Tensor:
    """‖θ_after − θ_before‖ of the update, over all weights."""
    deltas = below("delta", update.sums)
    if not deltas or not update.sums["weight"] > 0:
        return torch.zeros(())
    return torch.stack([leaf.norm() for leaf in deltas.values()]).norm() / update.sums["weight"]


def clipped(update: CohortUpdate, most: float) -> CohortUpdate:
    """The update with its change scaled down to norm ``most`` if it is longer."""
    factor = torch.clamp(most / norm(update).clamp(min=1e-12), max=1.0)
    deltas = {name: leaf * factor for name, leaf in below("delta", update.sums).items()}
    return CohortUpdate({**update.sums, **prefixed("delta", deltas)}, update.own)


def robust_sums(updates: Sequence[Tree], rule: Rule, malicious: float) -> Tree:
    """Sums whose mean is the robust value: total weight times the rule's change, count times its other statistics.

    Clients without pairs have no change and take no part.
    """
    voters = [update for update in updates if update["weight"] > 0]
    stacked = {name: torch.stack([update[name] for update in voters]) for name in voters[0]}
    weight = stacked["weight"]
    rows = {
        name: leaf / weight.reshape(-1, *[1] * (leaf.ndim - 1)) if name.startswith("delta.") else leaf
        for name, leaf in stacked.items()
    }
    attackers = int(malicious * len(voters))
    if rule == "krum":
        flat = torch.cat(
            [leaf.reshape(len(voters), -1) for name, leaf in rows.items() if name.startswith("delta.")], dim=1
        )
        chosen = krum(flat, attackers)
        values = {name: leaf[chosen] for name, leaf in rows.items()}
    else:
        cut = (len(voters) - 1) // 2 if rule == "median" else attackers
        values = {name: trimmed_mean(leaf, cut) for name, leaf in rows.items()}
    total = weight.sum()
    return {
        name: total * leaf if name.startswith("delta.") else len(voters) * leaf for name, leaf in values.items()
    } | {"weight": total}


def trimmed_mean(rows: Float[Tensor, n * shape], cut: int) -> Float[Tensor, "*shape"]:
    """The mean of each coordinate without its ``cut`` smallest and ``cut`` largest values.

    With ``cut`` = (n − 1) // 2 it is the median.
    """
    ordered = rows.sort(dim=0).values
    return ordered[cut : len(rows) - cut].mean(0)


def krum(rows: Float[Tensor, "n d"], attackers: int) -> int:
    """The row whose n − f − 2 nearest others are nearest, f the number of attackers; one neighbour at least."""
    distances = torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    nearest = max(len(rows) - attackers - 2, 1)
    return int(distances.sort(dim=1).values[:, 1 : nearest + 1].sum(1).argmin())
