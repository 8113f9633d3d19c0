"""The accountant against figures that others published, and against simulated privacy losses.

Published: ε at δ = 1e-6 of the PRV accountant (Gopi, Lee, Wutschitz, NeurIPS 2021), as Opacus keeps them in its tests
(``opacus/tests/prv_accountant.py``): its upper bounds, which are its estimates plus an allowed error of 0.01. And δ at
given ε of the Fourier accountant (Koskela, Jälkö, Honkela, AISTATS 2020), as its authors keep them in their tests
(``tests/test_compute_delta.py`` of DPBayes/PLD-Accountant). Both compute otherwise than dp-accounting does, for the
same mechanism: Poisson sampling, Gaussian noise, add or remove one.

Simulated: δ is the mean of (1 − exp(ε − loss))₊ over trainings with the user, or without if that is more. The interval
is of 99%, by the normal approximation, and δ should be in it. Where the accountant rounds up, δ may be a little above.

    python benchmarks/privacy_accountant.py                     # all: about a minute on one core
    python benchmarks/privacy_accountant.py --trainings 100000  # shorter, with wider intervals

One JSON object is printed; the exit code is 1 if a figure is off by more than 1%, or δ outside its interval.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvpa.privacy.accounting import calibrate, default_delta, epsilon_released

PRV = {
    (0.8, 0.05, 100): 6.741051939,
    (1.5, 0.05, 100): 1.953853136,
    (2.0, 0.05, 100): 1.283637380,
    (3.0, 0.05, 100): 0.767933790,
    (0.8, 0.2, 100): 24.333664178,
    (1.5, 0.2, 100): 8.498977859,
    (2.0, 0.2, 100): 5.672055609,
    (3.0, 0.2, 100): 3.381220510,
    (0.8, 0.05, 1000): 19.525842805,
    (1.5, 0.05, 1000): 6.209969247,
    (2.0, 0.05, 1000): 4.172799867,
    (3.0, 0.05, 1000): 2.527574332,
    (1.5, 0.05, 20000): 38.306617914,
    (3.0, 0.05, 20000): 13.961114699,
}
"""(σ, q, rounds) → the upper bound on ε at δ = 1e-6."""

PRV_ERROR = 0.01
"""What the bounds have on top of the estimates."""

FOURIER = {
    (1.0, 2.0, 0.01, 10_000): 0.010224911,
    (0.8, 2.0, 0.01, 10_000): 0.022850340,
    (1.0, 1.0, 0.01, 10_000): 0.239176395,
    (1.0, 2.0, 0.02, 10_000): 0.149917330,
}
"""(ε, σ, q, rounds) → δ."""

PLANNED = ((1000, 100, 50, 1e-4, 3.0), (1000, 100, 200, 1e-4, 3.0))
"""(N, cohort, rounds, δ, ε): what a plan asks for, simulated at the noise that it gets."""


@dataclass(frozen=True)
class Setting:
    """A mechanism to simulate."""

    noise_multiplier: float
    rate: float
    rounds: int
    delta: float


SETTINGS = (
    Setting(1.0, 0.1, 10, 1e-2),
    Setting(2.0, 0.1, 50, default_delta(1000)),
    Setting(4.0, 0.5, 50, default_delta(100)),
    Setting(0.8, 0.2, 20, 1e-3),
)


def losses(rng: np.random.Generator, setting: Setting, count: int, *, removed: bool) -> NDArray[np.float64]:
    """Privacy losses of simulated trainings, shape (count,): of removing a user, or of adding one."""
    sigma, total = setting.noise_multiplier, np.zeros(count)
    for _ in range(setting.rounds):
        seen = sigma * rng.standard_normal(count)
        if removed:
            seen += rng.random(count) < setting.rate
        total += np.log1p(setting.rate * np.expm1((seen - 0.5) / sigma**2))
    return total if removed else -total


def simulated(setting: Setting, trainings: int, seed: int = 0, block: int = 200_000) -> dict[str, Any]:
    """δ at the accountant's ε by simulation, the larger of the two directions, with its interval."""
    epsilon = epsilon_released(setting.noise_multiplier, setting.rate, setting.rounds, setting.delta)
    found = []
    for removed in (True, False):
        rng, sums, squares = np.random.default_rng([seed, removed]), 0.0, 0.0
        for start in range(0, trainings, block):
            some = losses(rng, setting, min(block, trainings - start), removed=removed)
            excess = -np.expm1(np.minimum(epsilon - some, 0.0))
            sums, squares = sums + float(excess.sum()), squares + float(np.square(excess).sum())
        mean = sums / trainings
        found.append((mean, math.sqrt(max(squares / trainings - mean**2, 0.0) / trainings)))
    mean, error = max(found)
    interval = (mean - 2.576 * error, mean + 2.576 * error)
    return {
        **vars(setting),
        "epsilon": epsilon,
        "simulated_delta": mean,
        "interval": interval,
        "inside": interval[0] <= setting.delta <= interval[1] * 1.005,
    }


def published() -> list[dict[str, Any]]:
    """Each published figure beside ours, with how far they are apart in ε."""
    rows = []
    for (sigma, rate, rounds), theirs in PRV.items():
        ours = epsilon_released(sigma, rate, rounds, 1e-6)
        rows.append(_row("PRV", sigma, rate, rounds, 1e-6, theirs - PRV_ERROR, ours))
    for (epsilon, sigma, rate, rounds), delta in FOURIER.items():
        ours = epsilon_released(sigma, rate, rounds, delta)
        rows.append(_row("Fourier", sigma, rate, rounds, delta, epsilon, ours))
    return rows


def _row(
    source: str, sigma: float, rate: float, rounds: int, delta: float, theirs: float, ours: float
) -> dict[str, Any]:
    setting = vars(Setting(sigma, rate, rounds, delta))
    return {"source": source, **setting, "published": theirs, "ours": ours, "relative": ours / theirs - 1}


def main() -> None:
    """Compare, simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=1_000_000, help="Simulated trainings of each setting.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    rows = published()
    planned = [
        Setting(calibrate(epsilon, delta, cohort / clients, rounds), cohort / clients, rounds, delta)
        for clients, cohort, rounds, delta, epsilon in PLANNED
    ]
    tries = [simulated(setting, options.trainings, options.seed) for setting in (*SETTINGS, *planned)]
    farthest = max(abs(row["relative"]) for row in rows)
    result = {
        "farthest": farthest,
        "all_inside": all(found["inside"] for found in tries),
        "published": rows,
        "simulated": tries,
        "trainings": options.trainings,
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(result, indent=2))
    sys.exit(0 if farthest <= 0.01 and result["all_inside"] else 1)


if __name__ == "__main__":
    main()
