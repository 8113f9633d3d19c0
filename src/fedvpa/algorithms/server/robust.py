"""What the server does with single updates before they count: validation, limits, and robust rules.

An update is validated always: what is not exactly what the algorithm expects (``validation.py``), or
absurdly long, is rejected with its client's id, and the round goes on without it. The limits on weight and change are
those of ``limits.py``. The rules are coordinate-wise median and trimmed mean (Yin et al., ICML 2018),
Krum (Blanchard et al., NeurIPS 2017) and, as everywhere else, the weighted mean.

Rules other than the mean need every client's update on its own. They cannot be combined with sums over several clients,
hence not with secure aggregation either. They compare changes and other means, not sums, so no weight that a client
claims matters to them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.server import rejections
from fedvpa.algorithms.server.limits import (
    EXCESS,
    MAX_WEIGHT,
    MOST_WEIGHT,
    Guard,
    answers,
    at_most,
    clipped,
    norm,
    own_at_most,
)
from fedvpa.algorithms.server.validation import Expected, problem
from fedvpa.core.rules import Rule, RulesConfig
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree

ABSURD = 100.0
"""A change whose norm is above this many times the limit, or the median of its cohort, is rejected instead of clipped.
Chosen by us: honest clients of unequal size stay within ten times."""


@dataclass(frozen=True)
class Part:
    """The update of one client, or the sum over the clients of one node.

    Attributes:
        clients: Their ids.
        update: Its sums, and what is not additive.
        noise: The variance of the noise that is in its sums already, in steps² (:mod:`fedvpa.privacy.shares`).
    """

    clients: tuple[str, ...]
    update: CohortUpdate
    noise: int = 0


@dataclass(frozen=True, repr=False)
class Aggregate:
    """What the server makes of the updates of a cohort.

    Attributes:
        update: What ``server_update`` is given.
        rejected: Client id → why its update does not count.
        guard: What is known of the clients' updates after this cohort.
        clip_norm: The longest change that counted; None for no limit.
        max_weight: The largest weight that counted; None for no limit.
    """

    update: CohortUpdate
    rejected: dict[str, str]
    guard: Guard
    clip_norm: float | None
    max_weight: float | None

    __repr__ = short_repr


def aggregate(
    parts: Sequence[Part], expected: Expected, guard: Guard, config: RulesConfig, longest: float | None = None
) -> Aggregate:
    """One update for the cohort.

    Args:
        parts: What came back.
        expected: What the algorithm wants of one client.
        guard: What was known of the clients' updates when they were asked.
        config: ``rule``, ``malicious``, ``clip_norm`` and ``max_weight``.
        longest: The norm beyond which a change is rejected; None for what follows from limits or medians.
    """
    announced = guard.announced(config, expected)
    most = float(announced[MAX_WEIGHT]) if MAX_WEIGHT in announced else MOST_WEIGHT
    absurd = _longest(guard, config) if longest is None else longest
    kept, rejected = screen(parts, answers(expected, announced), most, absurd)
    after = guard.after([part.update.sums for part in kept], sum(len(part.clients) for part in kept))
    # What was announced was kept to; in the first rounds the medians so far apply, this cohort's values among them.
    known = after if guard.typical_norm is None else guard
    clip_norm, max_weight = known.clip_norm(config), after.max_weight(config)
    kept = [Part(part.clients, _within(part, clip_norm, max_weight, expected)) for part in kept]
    together = reduce(CohortUpdate.__add__, (part.update for part in kept), CohortUpdate({}))
    if config.rule != "mean" and together.sums and together.sums["weight"] > 0:
        updates = [part.update.sums for part in kept]
        together = replace(together, sums=robust_sums(updates, config.rule, config.malicious, expected.by_weight))
    return Aggregate(together, rejected, after, clip_norm, max_weight)


def _longest(guard: Guard, config: RulesConfig) -> float | None:
    """The norm beyond which a change is absurd, if the cohort itself need not tell."""
    most = guard.clip_norm(config)
    return None if most is None else ABSURD * most


def _within(part: Part, clip_norm: float | None, max_weight: float | None, expected: Expected) -> CohortUpdate:
    """A part's update kept to the limits, without what was reported for them."""
    sums = {name: leaf for name, leaf in part.update.sums.items() if name != EXCESS}
    own = part.update.own
    if max_weight is not None:
        sums = at_most(sums, max_weight * len(part.clients), expected.by_weight)
        own = {client: own_at_most(tensors, max_weight) for client, tensors in own.items()}
    return CohortUpdate(sums if clip_norm is None else clipped(sums, clip_norm), own)


def screen(
    parts: Sequence[Part], expected: Expected, max_weight: float, longest: float | None
) -> tuple[list[Part], dict[str, str]]:
    """The parts that may count, and client id → reason for the others.

    Args:
        parts: What came back.
        expected: What the update of one client must look like.
        max_weight: The most that one client may weigh.
        longest: The norm beyond which a change is rejected; None for ``ABSURD`` times the median of the parts, if they
            are three or more.
    """
    reasons = [problem(part.update.sums, part.update.own, expected, part.clients, max_weight) for part in parts]
    norms = {row: float(norm(parts[row].update.sums)) for row, reason in enumerate(reasons) if reason is None}
    positive = [value for value in norms.values() if value > 0]
    if longest is None:
        longest = ABSURD * float(torch.tensor(positive).median()) if len(positive) > 2 else float("inf")
    for row, value in norms.items():
        if value > longest:
            reasons[row] = f"its change has norm {value:.3g}, and {longest:.3g} is {rejections.ABSURD} already"
    kept = [part for part, reason in zip(parts, reasons, strict=True) if reason is None]
    rejected = {
        name: reason for part, reason in zip(parts, reasons, strict=True) if reason is not None for name in part.clients
    }
    return kept, rejected


def robust_sums(updates: Sequence[Tree], rule: Rule, malicious: float, by_weight: Collection[str]) -> Tree:
    """Sums whose means are the robust values, of as many clients, each of the median weight.

    Clients without pairs have no change and take no part.
    """
    voters = [update for update in updates if update["weight"] > 0]
    stacked = {name: torch.stack([update[name] for update in voters]) for name in voters[0]}
    weight = stacked.pop("weight")
    rows = {
        name: leaf / weight.reshape(-1, *[1] * (leaf.ndim - 1)) if name in by_weight else leaf
        for name, leaf in stacked.items()
    }
    attackers = int(malicious * len(voters))
    deltas = [leaf.reshape(len(voters), -1) for name, leaf in rows.items() if name.startswith("delta.")]
    if rule == "krum" and deltas:
        chosen = krum(torch.cat(deltas, dim=1), attackers)
        values = {name: leaf[chosen] for name, leaf in rows.items()}
    else:
        cut = (len(voters) - 1) // 2 if rule == "median" else attackers
        values = {name: trimmed_mean(leaf, cut) for name, leaf in rows.items()}
    total = len(voters) * weight.median()
    scaled = {name: (total if name in by_weight else len(voters)) * leaf for name, leaf in values.items()}
    return {"weight": total} | scaled


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
