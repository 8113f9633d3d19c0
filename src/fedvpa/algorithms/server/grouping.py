"""Who trains which of U selectors (FedBiscuit, arXiv 2407.03038): warm-up in turn, then balanced greedy groups.

Shared by ``fedbiscuit.py`` and ``fedbiscuit_lora.py``. A *report* of a client holds ``losses``, its U losses, and
``label``, one-hot, the selector that it trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from fedvpa.algorithms.server.validation import Bounds
from fedvpa.core.errors import ConfigError
from fedvpa.core.tree import Tree


@dataclass(frozen=True)
class Timetable:
    """When what is trained.

    Attributes:
        selectors: U.
        rounds: In all.
        warmup_rounds: R_w.
        regroup_every: R_g.

    Raises:
        ConfigError: If the warm-up leaves no round.
    """

    selectors: int
    rounds: int
    warmup_rounds: int
    regroup_every: int

    def __post_init__(self) -> None:
        if self.warmup >= self.rounds:
            raise ConfigError(
                f"the warm-up of {self.selectors} selectors, {self.warmup_rounds} rounds each, leaves none of "
                f"{self.rounds} rounds for groups.",
                fix=f"Lower the number of selectors or of warm-up rounds, or raise that of rounds above {self.warmup}.",
            )

    @classmethod
    def of(cls, selectors: int, rounds: int, warmup_rounds: int | None, regroup_every: int | None) -> Timetable:
        """With the usual periods, ``rounds`` / (U + 1), where None is given; see ``BiscuitConfig``."""
        usual = max(1, rounds // (selectors + 1))
        return cls(selectors, rounds, warmup_rounds or usual, regroup_every or usual)

    @property
    def warmup(self) -> int:
        """The first round in which groups train, U·R_w."""
        return self.selectors * self.warmup_rounds

    def labels(self, round_: int, reports: Mapping[str, Tree], client_ids: Sequence[str]) -> Float[Tensor, "clients u"]:
        """One-hot, the selector that each client of a round trains."""
        if round_ < self.warmup:
            return _one_hot(torch.tensor([round_ // self.warmup_rounds] * len(client_ids)).long(), self.selectors)
        return labels_of(reports, client_ids, self.selectors)

    def groups_after(self, done: int) -> bool:
        """Whether clients are grouped once ``done`` rounds are over."""
        return done >= self.warmup and (done - self.warmup) % self.regroup_every == 0


def report_bounds(selectors: int) -> dict[str, Bounds]:
    """What a report must look like: losses in nats, and shares of selectors."""
    return {"losses": Bounds((selectors,), 0.0, 1e6), "label": Bounds((selectors,), 0.0, 1.0)}


def balanced_greedy(losses: Float[Tensor, "n u"]) -> Int[Tensor, " n"]:
    """Give each of n clients one of U selectors, ⌊n/U⌋ or ⌈n/U⌉ clients to each, by rounds of bidding.

    Every free client bids for the open selector of its least loss. The selector with the most bids keeps the bidders of
    least loss, as many as ⌈free clients / open selectors⌉, and closes; the others bid again. Equals: the first
    selector, the first client.

    Args:
        losses: The loss of each selector on each client's pairs.

    Returns:
        The selector of each client.
    """
    count, selectors = losses.shape
    labels = torch.full((count,), -1)
    bids = losses.clone()
    for still_open in range(selectors, 0, -1):
        free = (labels < 0).nonzero().squeeze(-1)
        if not len(free):
            break
        wanted = bids[free].argmin(-1)
        selector = torch.bincount(wanted, minlength=selectors).argmax()
        bidders = free[wanted == selector]
        best = bidders[losses[bidders, selector].argsort(stable=True)]
        labels[best[: -(-len(free) // still_open)]] = selector
        bids[:, selector] = math.inf
    return labels


def regrouped(remembered: Mapping[str, Tree]) -> dict[str, Tree]:
    """The same reports with the selectors that :func:`balanced_greedy` gives; by id, so that no order matters."""
    names = sorted(remembered)
    if not names:
        return {}
    losses = torch.stack([remembered[name]["losses"] for name in names])
    label = dict(zip(names, _one_hot(balanced_greedy(losses), losses.shape[-1]), strict=True))
    return {name: {**report, "label": label[name]} for name, report in remembered.items()}


def labels_of(remembered: Mapping[str, Tree], client_ids: Sequence[str], selectors: int) -> Float[Tensor, "clients u"]:
    """One-hot selectors of a cohort; who never reported gets the one with the fewest clients, and counts from then."""
    counts = torch.zeros(selectors)
    for report in remembered.values():
        counts = counts + report["label"]
    rows = []
    for name in client_ids:
        if name in remembered:
            rows.append(remembered[name]["label"])
            continue
        rows.append(_one_hot(counts.argmin(), selectors))
        counts = counts + rows[-1]
    return torch.stack(rows) if rows else torch.zeros(0, selectors)


def _one_hot(rows: Int[Tensor, "*batch"], selectors: int) -> Float[Tensor, "*batch u"]:
    return one_hot(rows, selectors).float()
