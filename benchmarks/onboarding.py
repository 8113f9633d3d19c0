"""How many labelled pairs a new user needs: chosen by expected information, beside random ones.

For each seed a selector is trained. New users, whom training has not seen, are asked one pair after the other, and
after each label z is inferred and the selector orders test pairs as they would. The way from no pair to 32 random ones
is what there is to gain; counted is how many pairs bring the users of a group structure 95% of it, on average, when
they are chosen (``selector/information.py``) and when they are drawn. Each user gives the same label to the same pair
in both. Prints JSON: curves, counts of each seed, and the ratio with a 95% interval over seeds.

On the bundled world (`--config configs/world_four_groups.yaml`) the pool has so many pairs of the grammar, users draw
labels by their utilities, and accuracy is exact: expected over the labels of test pairs of other prompts. On a table
(`--config configs/hh_objectives.yaml data.path=… features.model=…`) a user of a group is asked half of the group's
held-out pairs and tested on the other half; accuracy is the share of their labels.

    python benchmarks/onboarding.py --config configs/world_four_groups.yaml --clients 100 --seeds 0,1,2,3,4
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import stats

from _machine import machine_facts
from fedvpa.core.seeds import numpy_generator
from fedvpa.data.schema import Pair, PairTable
from fedvpa.data.splits import Ints
from fedvpa.rewards.world import WorldReward
from fedvpa.runs.config import RunConfig, read_config
from fedvpa.runs.fit import fit
from fedvpa.runs.prepare import Prepared, prepare, prepare_pairs
from fedvpa.selector.information import expected_information
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import Selector
from fedvpa.world.config import Pool
from fedvpa.world.generate import user_pairs
from fedvpa.world.users import User, find_population
from fedvpa.world.utility import preference

MOST, SHARE = 32, 0.95
"""Random pairs at the end of the way, and how much of it counts."""


@dataclass(frozen=True)
class NewUser:
    """Somebody whom training has not seen.

    Attributes:
        group: What they like.
        pool: The pairs that they can be asked.
        first: Whether they prefer the response that stands as ``chosen``, of each.
        test: Other pairs.
        wins: How likely they prefer the response that stands as ``chosen``, of each.
    """

    group: str
    pool: Pairs
    first: Bool[np.ndarray, " pool"]
    test: Pairs
    wins: Float[np.ndarray, " test"]


def curve(selector: Selector, user: NewUser, order: Ints | None) -> list[float]:
    """Accuracy after 0, 1, … labels.

    Args:
        selector: Trained.
        user: Who is asked.
        order: The pairs in the order in which they are asked; None for those that say most.
    """
    asked: list[int] = []
    accuracies = []
    for number in range(MOST + 1):
        context = labelled(user, asked)
        posterior = selector.infer(context)
        right = selector.margins(posterior, user.test).numpy() > 0
        accuracies.append(float(np.where(right, user.wins, 1 - user.wins).mean()))
        if order is not None:
            asked.append(int(order[number]))
        else:
            told = expected_information(selector, posterior, context, user.pool)
            told[asked] = -1.0
            asked.append(int(told.argmax()))
    return accuracies


def labelled(user: NewUser, rows: Sequence[int]) -> Pairs:
    """The pairs with the user's labels; of none, one that counts for nothing."""
    if not rows:
        nothing = user.pool.rows(np.array([0]))
        return Pairs(nothing.chosen, nothing.rejected, 0 * nothing.weight, nothing.slot)
    pairs = user.pool.rows(np.array(rows))
    sides = torch.from_numpy(user.first[rows])[:, None]
    chosen, rejected = (
        torch.where(sides, pairs.chosen, pairs.rejected),
        torch.where(sides, pairs.rejected, pairs.chosen),
    )
    return Pairs(chosen, rejected, pairs.weight, pairs.slot)


def users_of_world(config: RunConfig, selector: Selector, users: int, pool: int) -> list[NewUser]:
    """New users of the bundled world, equally many of each group, each with labels of their own."""
    population = find_population(config.data.population)
    names = [utility.name for utility in population.utilities]
    (asked, wins), (test, test_wins) = (_public(config, selector, names, part, pool) for part in ("train", "test"))
    found = []
    for name in names:
        for number in range(users):
            coins = numpy_generator(config.seed, "onboarding", name, number).random(len(wins[name]))
            found.append(NewUser(name, asked, coins < wins[name], test, test_wins[name]))
    return found


def _public(
    config: RunConfig, selector: Selector, names: Sequence[str], prompts: Pool, count: int
) -> tuple[Pairs, dict[str, Float[np.ndarray, " pairs"]]]:
    """Pairs of the grammar that nobody labelled, and how likely each group prefers the first response."""
    somebody = User("public", None, find_population("two-groups").utilities[0])
    made = user_pairs(somebody, count, config.data.seed, pool=prompts)
    table = PairTable(tuple(Pair(pair.prompt, pair.chosen, pair.rejected) for pair in made))
    assert selector.scaling is not None
    table, pairs = prepare_pairs(config.features, table, selector.scaling)
    wins = {}
    for name in names:
        first, second = (
            WorldReward().utilities([(pair.prompt, str(getattr(pair, side))) for pair in table.pairs], name)[0]
            for side in ("chosen", "rejected")
        )
        wins[name] = preference(first - second, config.data.temperature, config.data.flip)
    return pairs, wins


def users_of_table(prepared: Prepared, selector: Selector, users: int, seed: int) -> list[NewUser]:
    """New users of a table's groups, who answer with the labels of their group's held-out pairs."""
    assert selector.scaling is not None
    table, clients = prepared.table, prepared.federation.partition.seen
    found = []
    for group in table.groups():
        rows = sorted({int(row) for client in clients if client.group == group for row in client.test})
        held, pairs = prepare_pairs(prepared.features, table.select(rows), selector.scaling)
        for number in range(users):
            rng = numpy_generator(seed, "onboarding", group, number)
            order = rng.permutation(len(held))
            swapped = rng.random(len(held)) < 0.5  # so that the place of a response says nothing
            sides = torch.from_numpy(swapped)[:, None]
            shown = Pairs(
                torch.where(sides, pairs.rejected, pairs.chosen),
                torch.where(sides, pairs.chosen, pairs.rejected),
                pairs.weight,
                pairs.slot,
            )
            half = len(held) // 2
            asked, test = order[:half], order[half:]
            wins = (~swapped[test]).astype(np.float64)
            found.append(NewUser(group, shown.rows(asked), ~swapped[asked], shown.rows(test), wins))
    return found


def needed(accuracies: Float[np.ndarray, " n"], start: float, end: float) -> int:
    """The first number of pairs that brings so much of the way; one more than was tried if none does."""
    there = np.flatnonzero(accuracies >= start + SHARE * (end - start))
    return int(there[0]) if len(there) else MOST + 1


def one_seed(config: RunConfig, users: int, pool: int) -> dict[str, Any]:
    """Curves and counts of one selector.

    Args:
        config: The run.
        users: New users of each group.
        pool: Pairs that can be asked, on the bundled world.
    """
    prepared = prepare(config)
    selector = fit(config, prepared).selector
    world = config.data.source == "world"
    people = (
        users_of_world(config, selector, users, pool)
        if world
        else users_of_table(prepared, selector, users, config.seed)
    )
    curves: dict[str, list[list[float]]] = {"random": [], "chosen": []}
    for number, user in enumerate(people):
        order = numpy_generator(config.seed, "onboarding-order", number).permutation(len(user.first))
        curves["random"].append(curve(selector, user, order))
        curves["chosen"].append(curve(selector, user, None))
    means = {name: np.mean(own, axis=0) for name, own in curves.items()}
    start, end = float(means["random"][0]), float(means["random"][MOST])
    return {
        "seed": config.seed,
        "pairs": {name: needed(mean, start, end) for name, mean in means.items()},
        "curves": {name: mean.round(4).tolist() for name, mean in means.items()},
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts and their ratio over seeds."""
    counts = {name: np.array([row["pairs"][name] for row in rows], dtype=float) for name in ("random", "chosen")}
    ratio = counts["chosen"] / counts["random"]
    found = {}
    for name, values in {**counts, "ratio": ratio}.items():
        mean, count = float(values.mean()), len(values)
        half = float(stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5) if count > 1 else None
        interval = None if half is None else [round(mean - half, 3), round(mean + half, 3)]
        found[name] = {"mean": round(mean, 3), "ci95": interval}
    return found


def main() -> None:
    """All seeds, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/world_four_groups.yaml"))
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--users", type=int, default=10, help="new users of each group")
    parser.add_argument("--pool", type=int, default=200, help="pairs that can be asked, on the bundled world")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = read_config(options.config, ["engine.workers=1", *options.overrides]).with_clients(options.clients)
    rows = []
    for seed in map(int, options.seeds.split(",")):
        own = config.with_seed(seed)
        if own.data.source == "world":
            own = own.model_copy(update={"data": own.data.model_copy(update={"seed": seed})})
        rows.append(one_seed(own, options.users, options.pool))
        print(json.dumps(rows[-1]), flush=True)
    told = {name: value for name, value in vars(options).items() if name != "overrides"}
    print(json.dumps({"machine": machine_facts(), "settings": told, **summary(rows)}, default=str))


if __name__ == "__main__":
    main()
