"""What the methods and variants of a comparison that were trained with noise cost in privacy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedvpa.evaluation.summaries import Condition, JsonResult


@dataclass(frozen=True, slots=True)
class PrivacyRow(JsonResult):
    """One method or variant with noise at one number of clients; numbers that differ between seeds are the largest.

    Attributes:
        method: The name of its row.
        n_clients: How many clients the runs trained on.
        seeds: Their seeds, sorted. ε is that of one run, and what is released of several adds up.
        noise_multiplier: σ.
        epsilon_released: For whoever sees what one run releases and not who took part.
        epsilon_server: For whoever also sees who took part.
        delta: δ.
        unit: Who is protected.
        relation: What neighbouring federations differ by.
        releases: How many noised sums one run released.
        seeded: Whether the noise follows from the seed, so that nothing is private.
    """

    method: str
    n_clients: int
    seeds: tuple[int, ...]
    noise_multiplier: float
    epsilon_released: float
    epsilon_server: float
    delta: float
    unit: str
    relation: str
    releases: int
    seeded: bool


def privacy_rows(spent: Mapping[tuple[str, int, int], Mapping[str, Any] | None]) -> tuple[PrivacyRow, ...]:
    """One row for each method and number of clients that was noised, in the order given.

    Args:
        spent: (method, number of clients, seed) → what a run's ``metrics.json`` has under ``privacy``; None for a run
            without noise, and left out.
    """
    found: dict[Condition, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for (method, _, seed), one in spent.items():
        if one is not None:
            found[Condition(method, int(one["clients"]))][seed] = one
    return tuple(_row(condition, runs) for condition, runs in found.items())


def _row(condition: Condition, runs: Mapping[int, Mapping[str, Any]]) -> PrivacyRow:
    def most(key: str) -> float:
        return max(float(run[key]) for run in runs.values())

    one = next(iter(runs.values()))
    return PrivacyRow(
        method=condition.method,
        n_clients=condition.n_clients,
        seeds=tuple(sorted(runs)),
        noise_multiplier=most("noise_multiplier"),
        epsilon_released=most("epsilon_released"),
        epsilon_server=most("epsilon_server"),
        delta=most("delta"),
        unit=str(one["unit"]),
        relation=str(one["relation"]),
        releases=max(int(run["rounds"]) for run in runs.values()),
        seeded=any(bool(run["seeded"]) for run in runs.values()),
    )
