"""How often 95% intervals hold the truth, where the truth is known: by simulation, with the package's own intervals.

A table of pairs is dealt anew to clients in each seed, group by group, and a fifth of its pairs tests. Whether a pair
is ordered right depends on the pair, on the client, on the training seed, and on luck:

    logit P(right) = level of the group + pair + client + seed

with a normal deviation for each. The same pair is as hard in every deal. Two estimands are asked about: the mean over
other clients and pairs of *these trained models* (the seeds' deviations are held fixed), and of *the method* (they are
not). Each has its interval; differences of two methods, and win rates of policies over prompts, users and seeds, are
simulated in the same way. ``false_claims`` is how often two equal methods are called different at 5%.

    python benchmarks/interval_coverage.py --runs 1000

Numpy only; a few minutes on one core. One JSON object is printed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvpa.evaluation.intervals import Estimate, difference, estimate
from fedvpa.evaluation.summaries import SHARE, SHARE_DIFFERENCE
from fedvpa.evaluation.variance import Design

Values = NDArray[np.float64]

NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(61)
GROUPS = 2


@dataclass(frozen=True)
class World:
    """What luck there is, in the logarithm of the odds.

    Attributes:
        pairs: Pairs of the table, or prompts.
        clients: Clients in each seed, or users of a preference.
        seeds: How many deals of the table.
        levels: Of each group.
        pair_sd: How pairs differ, the same in every deal.
        client_sd: How clients differ; they are other clients in every deal.
        seed_sd: How training runs differ.
        test_share: Share of the pairs that tests.
        crossed: Every client is tested on all test pairs of its group, as on a hold-out.
    """

    pairs: int = 3000
    clients: int = 10
    seeds: int = 1
    levels: tuple[float, ...] = (1.1, 0.5)
    pair_sd: float = 1.0
    client_sd: float = 0.3
    seed_sd: float = 0.25
    test_share: float = 0.2
    crossed: bool = False


@dataclass(frozen=True)
class ArraySample:
    """Answers in arrays: what :class:`fedvpa.evaluation.intervals.Sample` asks for."""

    design: Design
    values: Values

    @property
    def units(self) -> int:
        """Clients, counted once per seed."""
        return len(np.unique(self.design.people))

    @property
    def seeds(self) -> list[int]:
        """Sorted."""
        return sorted(set(self.design.seeds.tolist()))

    @property
    def mean(self) -> float:
        """Weighted."""
        return float(self.design.weights @ self.values)

    def answers(self) -> tuple[Design, Values]:
        """The arrays."""
        return self.design, self.values

    def matched(self, *others: ArraySample) -> Sequence[ArraySample]:
        """All are on the same answers here."""
        return [self, *others]

    def aligned(self, other: ArraySample) -> Values:
        """All are on the same answers here."""
        return other.values

    def minus(self, other: ArraySample) -> ArraySample:
        """Paired by answer."""
        return replace(self, values=self.values - other.values)


def deal(world: World, rng: np.random.Generator) -> Design:
    """Who is tested on which pair in which seed: each group's test pairs are dealt to its clients in equal numbers."""
    columns: list[tuple[Values, ...]] = []
    half, each = world.pairs // GROUPS, world.clients // GROUPS
    tests = max(each, round(half * world.test_share) // each * each)
    for seed in range(world.seeds):
        for group in range(GROUPS):
            people = (seed * GROUPS + group) * each + np.arange(each)
            if world.crossed:
                items = group * half + np.arange(tests)
                person, item = (grid.ravel() for grid in np.meshgrid(people, items, indexing="ij"))
            else:
                item = group * half + rng.permutation(half)[:tests]
                person = np.repeat(people, tests // each)
            columns.append((np.full(len(item), seed), person, item, np.full(len(item), group)))
    seeds, people, items, groups = (np.concatenate(parts).astype(np.int64) for parts in zip(*columns, strict=True))
    return Design(np.full(len(seeds), 1 / len(seeds)), seeds, people, items, groups)


def turns(world: World, rng: np.random.Generator) -> Design:
    """Who asks which prompt in which seed: every prompt once per seed, users take turns, one preference."""
    prompts = np.tile(np.arange(world.pairs), world.seeds)
    seeds = np.repeat(np.arange(world.seeds), world.pairs)
    users = seeds * world.clients + prompts % world.clients
    return Design(np.full(len(seeds), 1 / len(seeds)), seeds, users, prompts, np.zeros_like(seeds))


def own_users(world: World, rng: np.random.Generator) -> Design:
    """Every user is a client, the same in every seed, with pairs of its own of which each seed tests another part."""
    each = world.pairs // world.clients
    tests = max(1, round(each * world.test_share))
    picked = [user * each + rng.permutation(each)[:tests] for _ in range(world.seeds) for user in range(world.clients)]
    items = np.concatenate(picked)
    seeds = np.repeat(np.arange(world.seeds), world.clients * tests)
    return Design(np.full(len(seeds), 1 / len(seeds)), seeds, items // each, items, np.zeros_like(seeds))


def draw(world: World, design: Design, deviations: Values, rng: np.random.Generator) -> ArraySample:
    """Whether each answer is right."""
    levels = np.array(world.levels)[design.groups]
    pairs = world.pair_sd * rng.standard_normal(int(design.items.max()) + 1)
    clients = world.client_sd * rng.standard_normal(int(design.people.max()) + 1)
    odds = levels + pairs[design.items] + clients[design.people] + deviations[design.seeds]
    return ArraySample(design, (rng.random(len(odds)) < 1 / (1 + np.exp(-odds))).astype(np.float64))


def truth(world: World, deviations: Values | None) -> float:
    """The mean over other clients and pairs, by quadrature; over other seeds too where no deviations are given."""
    spread = world.pair_sd**2 + world.client_sd**2 + (world.seed_sd**2 if deviations is None else 0.0)
    shifts = np.zeros(1) if deviations is None else deviations
    odds = np.array(world.levels)[:, None, None] + shifts[None, :, None] + np.sqrt(spread) * NODES
    return float((1 / (1 + np.exp(-odds)) @ NODE_WEIGHTS / NODE_WEIGHTS.sum()).mean())


def coverage(
    world: World, runs: int, seed: int = 0, design: Callable[[World, np.random.Generator], Design] = deal
) -> dict[str, float | None]:
    """How often each interval holds its truth, and how often equal methods are called different.

    Args:
        world: Clients, deals and luck.
        runs: How many simulations.
        seed: Of the simulations.
        design: Who meets what.
    """
    hits: dict[str, list[bool]] = {}
    lengths: dict[str, list[float]] = {}
    for run in range(runs):
        rng = np.random.default_rng([seed, world.clients, world.seeds, world.crossed, run])
        dealt = design(world, rng)
        shifts = [world.seed_sd * rng.standard_normal(world.seeds) for _ in range(2)]
        methods = [draw(world, dealt, deviations, rng) for deviations in shifts]
        fixed = [truth(world, deviations) for deviations in shifts]
        gain = difference(*methods, bounds=SHARE_DIFFERENCE)
        assert gain is not None
        found = {"": (estimate(methods[0], bounds=SHARE), fixed[0], truth(world, None))}
        found["difference_"] = (gain.estimate, fixed[0] - fixed[1], 0.0)
        for name, (value, of_models, of_method) in found.items():
            _note(hits, lengths, name, value, of_models, of_method)
        if gain.method_p_value is not None:
            hits.setdefault("false_claims", []).append(gain.method_p_value < 0.05)
    return {name: float(np.mean(held)) for name, held in hits.items()} | {
        f"{name}_length": round(float(np.mean(held)), 4) for name, held in lengths.items()
    }


def _note(
    hits: dict[str, list[bool]],
    lengths: dict[str, list[float]],
    name: str,
    value: Estimate,
    of_models: float,
    of_method: float,
) -> None:
    for kind, interval, true in (("models", value.interval, of_models), ("method", value.method, of_method)):
        if interval is not None:
            hits.setdefault(f"{name}{kind}", []).append(interval[0] <= true <= interval[1])
            lengths.setdefault(f"{name}{kind}", []).append(interval[1] - interval[0])


def cells() -> dict[str, tuple[World, Callable[[World, np.random.Generator], Design]]]:
    """What is simulated."""
    found: dict[str, tuple[World, Callable[[World, np.random.Generator], Design]]] = {}
    for clients in (10, 50, 100):
        for seeds in (1, 5, 20):
            found[f"accuracy, N = {clients}, {seeds} deals"] = (World(clients=clients, seeds=seeds), deal)
    found["accuracy, N = 50, 20 deals, no luck of seeds"] = (World(clients=50, seeds=20, seed_sd=0.0), deal)
    for seeds in (1, 5):
        found[f"accuracy, 50 users, {seeds} seeds"] = (World(clients=50, seeds=seeds, levels=(0.8,)), own_users)
        hold_out = World(clients=50, seeds=seeds, pairs=600, test_share=1.0, crossed=True)
        found[f"hold-out, N = 50, {seeds} deals"] = (hold_out, deal)
        for users in (5, 25):
            judged = World(pairs=500, clients=users, seeds=seeds, levels=(0.8,))
            found[f"win rate, 500 prompts, {users} users, {seeds} seeds"] = (judged, turns)
    return found


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="Simulations of each cell.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="Cells whose name holds this.")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    start = time.perf_counter()
    for name, (world, design) in cells().items():
        if options.only in name:
            results[name] = coverage(world, options.runs, options.seed, design)
    # Two standard errors of a share of 0.95: what the number of simulations alone moves it by.
    noise = round(2 * (0.95 * 0.05 / options.runs) ** 0.5, 4)
    seconds = round(time.perf_counter() - start, 1)
    print(json.dumps({"runs": options.runs, "noise": noise, "seconds": seconds, "cells": results}, indent=2))


if __name__ == "__main__":
    main()
