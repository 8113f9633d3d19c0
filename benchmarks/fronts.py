"""FIRM beside FedVPA-GP: one front per method on the bundled world, by its exact utilities.

Five preferences between helpful and harmless, from all for the one to all for the other. ``firm``, ``scalar`` and
``fedcmoo`` train one policy for each; ``soups`` trains one adapter for each objective and interpolates them;
``fedvpa_gp`` has one policy, which is asked with five z on the straight line between the two preferences' z. All have
the same base policy, answer the same prompts, which no training saw, as often, and are scored by the same utilities.
Clients of the first four hold mixtures of topics of prompts (``partition.kind=topics``). FedVPA-GP learns from whose
labels differ, so its clients are of one group each, as in its own protocol (``partition.kind=group``): a client whose
pairs come from both groups has no preference that a z could stand for.

    python benchmarks/fronts.py --out FOLDER --seeds 3
    python benchmarks/fronts.py --out FOLDER --methods firm,scalar --minutes 20 firm.rounds=10

Every training and every answer is kept in FOLDER, and what is there is not done again. Leaves ``fronts.json``,
``fronts.md`` and ``fronts.png`` there, of the seeds that are whole.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from _machine import machine_facts
from fedvpa.algorithms.server.aggregation import Averaged
from fedvpa.algorithms.soups import interpolated
from fedvpa.alignment.prompts import world_prompts
from fedvpa.alignment.stage1 import ONE
from fedvpa.api.align import align
from fedvpa.api.train import train
from fedvpa.core.content import hash_files
from fedvpa.core.files import read_own_lines, read_own_object, write_json, write_text
from fedvpa.core.progress import say
from fedvpa.core.signals import Interrupted
from fedvpa.engines.checkpoint import from_tree
from fedvpa.evaluation.fronts import FrontSummary, compared_volumes, summarise_front
from fedvpa.evaluation.hypervolume import Front, hypervolume_of
from fedvpa.evaluation.intervals import Estimate
from fedvpa.evaluation.objective_curves import summarise_objectives
from fedvpa.evaluation.report.front_figure import front_figure
from fedvpa.evaluation.report.style import save_figure
from fedvpa.experiments.answers import BASE, Answers
from fedvpa.policy.adapters import put_adapter
from fedvpa.policy.files import read_preferences
from fedvpa.policy.policy import Policy
from fedvpa.policy.sampling import Sampling
from fedvpa.rewards.objective_names import default_objectives
from fedvpa.rewards.objectives import Objective, make_objectives
from fedvpa.runs.config import read_config
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.policies import open_aligned
from fedvpa.runs.policy_checkpoints import checkpoints

PATH = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The share of helpful in each preference."""

METHODS = ("firm", "scalar", "fedcmoo", "soups", "fedvpa_gp")
OURS, SOUPS = "fedvpa_gp", "soups"
GROUPS = ("helpful", "harmless")
WORLD = ("data.users=20", "data.pairs_per_user=50", "partition.clients=10", "engine.workers=1")
KINDS = {OURS: ("partition.kind=group",)}
TOPICS = ("partition.kind=topics", "method=global", "server.rounds=1")
"""Clients of the methods that train policies. Of their run nothing but the pairs is read."""


@dataclass(frozen=True)
class Options:
    """What is asked for.

    Attributes:
        out: The folder.
        prompts: How many prompts judge.
        answers: How many answers to each.
        until: The time after which no further step begins, on the monotonic clock.
        overrides: Of every run.
        aligned: Of every alignment.
    """

    out: Path
    prompts: int
    answers: int
    until: float
    overrides: tuple[str, ...]
    aligned: tuple[str, ...]


class OutOfTimeError(Exception):
    """The time is over; what was done is kept."""


@dataclass(frozen=True)
class Asked:
    """One policy as it is asked: what it is made of, and how it is opened.

    Attributes:
        run: The run directory of its training.
        share: Of helpful in the preference.
        opened: Opens the policy.
        z: What it is asked with; None for a policy without z.
    """

    run: RunFolder
    share: float
    opened: Callable[[], Policy]
    z: torch.Tensor | None = None


def main() -> None:
    """Train, answer, score, and leave fronts and their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--answers", type=int, default=2, help="to each prompt")
    parser.add_argument("--minutes", type=float, default=600.0, help="no step begins later than this")
    parser.add_argument("--run", action="append", default=[], help="an override of every run, such as data.users=40")
    parser.add_argument("overrides", nargs="*", help="of every alignment, such as firm.rounds=10")
    given = parser.parse_args()
    options = Options(
        given.out,
        given.prompts,
        given.answers,
        time.monotonic() + 60 * given.minutes,
        tuple(given.run),
        tuple(given.overrides),
    )
    methods = given.methods.split(",")
    try:
        rewards = collect(options, methods, range(given.seeds))
    except Interrupted as stopped:
        sys.exit(f"{stopped.args[0].partition(';')[0]}; give the command again to go on")
    if rewards:
        leave(options, methods, rewards)


def collect(options: Options, methods: Sequence[str], seeds: Sequence[int]) -> dict[int, dict[str, np.ndarray]]:
    """Seed → method → rewards [policies, prompts, objectives], and those of the base policy under ``BASE``.

    Seeds that time did not allow to finish are left out, and said.
    """
    found: dict[int, dict[str, np.ndarray]] = {}
    for seed in seeds:
        try:
            found[seed] = {method: scored(options, method, seed) for method in methods} | {BASE: base(options, seed)}
        except OutOfTimeError:
            say(f"the time is over: seed {seed} is not whole and is left out; give the command again to go on")
            break
    return found


def scored(options: Options, method: str, seed: int) -> np.ndarray:
    """[policies, prompts, objectives] mean rewards of a method's answers."""
    return np.stack([rewards_of(options, method, seed, asked) for asked in policies(options, method, seed)])


def policies(options: Options, method: str, seed: int) -> Iterator[Asked]:
    """The five policies of a method, trained when they are reached."""
    if method == OURS:
        run = aligned(options, method, seed, "z", ())
        for share in PATH:
            yield Asked(run, share, lambda: opened(run), z_at(run, share))
    elif method == SOUPS:
        run = aligned(options, method, seed, "all", ())
        for share in PATH:
            yield Asked(run, share, lambda share=share: soup(run, share))  # type: ignore[misc]
    else:
        for share in PATH:
            one = aligned(options, method, seed, f"{share:g}", preference(share))
            yield Asked(one, share, lambda one=one: opened(one))  # type: ignore[misc]


def preference(share: float) -> tuple[str, ...]:
    """The overrides of a preference."""
    return (f"firm.preference={share:g},{1 - share:g}",)


def aligned(options: Options, method: str, seed: int, name: str, more: Sequence[str]) -> RunFolder:
    """A run with its policy; trained, or gone on with, where it is not there."""
    run = RunFolder(options.out / f"seed-{seed}" / f"{method}-{name}")
    if (run.policy / "metrics.json").is_file():
        return run
    config = read_config(None, [*WORLD, *KINDS.get(method, TOPICS), f"seed={seed}", *options.overrides])
    if not (run.path / "metrics.json").is_file():
        with in_time(options, f"{run}: stage 1"):
            train(config, run.path, overwrite=True)
    with in_time(options, f"{run}: policy"):
        started = any(run.checkpoint.parent.glob("policy*.safetensors"))
        chosen = None if method == OURS else method
        overrides = () if method == OURS else (*options.aligned, *more)
        align(run.path, method=chosen, overrides=() if started else overrides, resume=started, overwrite=not started)
    return run


@contextmanager
def in_time(options: Options, step: str) -> Iterator[None]:
    """Says a step and how long it took; raises OutOfTimeError where the time is over."""
    if time.monotonic() > options.until:
        raise OutOfTimeError
    say(step)
    began = time.monotonic()
    yield
    say(f"{step}: {time.monotonic() - began:.0f} s")


def opened(run: RunFolder) -> Policy:
    """The policy of a run."""
    return open_aligned(run).policies[ONE]


def z_at(run: RunFolder, share: float) -> torch.Tensor:
    """The z so far on the way from harmless to helpful."""
    latents = read_preferences(run.policy)
    helpful, harmless = (torch.tensor(latents[name]) for name in GROUPS)
    return share * helpful + (1 - share) * harmless


def soup(run: RunFolder, share: float) -> Policy:
    """The adapters of ``soups``, which the checkpoint of its training keeps, interpolated by another preference."""
    policy = opened(run)
    (checkpoint,) = checkpoints(run)
    state = from_tree(load_file(checkpoint), Averaged)
    put_adapter(policy, interpolated(state.server.params, (share, 1 - share)))
    return policy.eval()


def rewards_of(options: Options, method: str, seed: int, asked: Asked) -> np.ndarray:
    """[prompts, objectives] the mean reward of a policy's answers to each prompt."""
    content = hash_files(asked.run.policy.glob("*.safetensors"))
    path = options.out / f"seed-{seed}" / "answers" / f"{method}-{asked.share:g}.jsonl"
    texts, policy = judged_prompts(options), cache(asked.opened)
    book = Answers(texts, sampling(asked.run), seed, {ONE: f"{content} {asked.share}"}, lambda _: policy(), path)
    rows = None if asked.z is None else asked.z.expand(len(texts), -1)
    return mean_rewards(texts, lambda number: book.of(ONE, rows, "fronts", str(number)), options.answers)


def base(options: Options, seed: int) -> np.ndarray:
    """[prompts, objectives] the same of the base policy."""
    run = next((options.out / f"seed-{seed}").glob("*/policy/metrics.json")).parent.parent
    texts, path = judged_prompts(options), options.out / f"seed-{seed}" / "answers" / "base.jsonl"
    folder = RunFolder(run)
    book = Answers(texts, sampling(folder), seed, {BASE: "base"}, lambda _: opened(folder), path)
    return mean_rewards(texts, lambda number: book.of(BASE, None, "fronts", str(number)), options.answers)


def judged_prompts(options: Options) -> list[Any]:
    """Prompts of the world's test pool, the same ones for every seed and method."""
    return world_prompts("test", options.prompts, 0)


def sampling(run: RunFolder) -> Sampling:
    """How everybody answers: as judged policies do."""
    policy = run.config().policy
    rules, limits = policy.judging, policy.candidates
    return Sampling(rules.temperature, rules.top_p, limits.max_new_tokens, limits.batch)


def mean_rewards(texts: Sequence[Any], answers: Callable[[int], Sequence[Any]], count: int) -> np.ndarray:
    """[prompts, objectives] means over ``count`` answers to each prompt."""
    total = np.zeros((len(texts), len(GROUPS)))
    for number in range(count):
        items = [(text, answer.text) for text, answer in zip(texts, answers(number), strict=True)]
        total += np.array([one.score(items) for one in objectives()], dtype=np.float64).T
    return total / count


def objectives() -> tuple[Objective, ...]:
    """The exact utilities of the two groups."""
    return make_objectives(default_objectives("two-groups", 0))


def leave(options: Options, methods: Sequence[str], rewards: Mapping[int, Mapping[str, np.ndarray]]) -> None:
    """Write fronts, table and picture.

    Beside the hypervolume over the base policy stands that over the worst mean reward of any policy here: it counts
    policies too that are better than the base in one objective alone, as the ends of a front are.
    """
    base_rewards = np.stack([own[BASE] for own in rewards.values()])
    fronts = {name: Front(np.stack([own[name] for own in rewards.values()]), base_rewards) for name in methods}
    shares = [(share, 1 - share) for share in PATH]
    names = [str(one) for one in default_objectives("two-groups", 0)]
    summaries = {name: summarise_front(name, front, shares, names) for name, front in fronts.items()}
    first, worst = methods[0], np.min([front.rewards.mean(2).min((0, 1)) for front in fronts.values()], axis=0)
    gaps = compared_volumes(fronts, first)
    reach = {
        name: hypervolume_of(Front(front.rewards, np.broadcast_to(worst, front.base.shape)))
        for name, front in fronts.items()
    }
    traffic = {name: traffic_of(options, name, sorted(rewards)) for name in methods}
    machine = machine_facts()
    write_json(
        options.out / "fronts.json",
        {
            "machine": machine,
            "settings": {
                "run": [*WORLD, *options.overrides],
                "align": list(options.aligned),
                "answers": options.answers,
            },
            "base": base_rewards.mean((0, 1)).tolist(),
            "fronts": [summary.to_dict() for summary in summaries.values()],
            "hypervolume_minus": {first: {name: estimate_as_json(gap) for name, gap in gaps.items()}},
            "hypervolume_over_worst": {name: estimate_as_json(volume) for name, volume in reach.items()},
            "worst": worst.tolist(),
            "traffic": traffic,
        },
    )
    text = table(summaries, gaps, reach, traffic)
    write_text(options.out / "fronts.md", text)
    save_figure(front_figure([summary.to_dict() for summary in summaries.values()]), options.out / "fronts.png")
    print(text)
    print(json.dumps({"machine": machine, "out": str(options.out)}))


def traffic_of(options: Options, method: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Bytes and seconds of all trainings of a method's front, mean over seeds; and what its histories tell."""
    found: list[dict[str, float]] = []
    told: dict[str, list[Any]] = {}
    for seed in seeds:
        total = {"uplink_bytes": 0.0, "downlink_bytes": 0.0, "seconds": 0.0, "trainings": 0.0}
        for place in sorted((options.out / f"seed-{seed}").glob(f"{method}-*")):
            run = RunFolder(place)
            lines = read_own_lines(run.history if method == OURS else run.policy / "history.jsonl")
            total["uplink_bytes"] += sum(line["uplink_bytes"] for line in lines)
            total["downlink_bytes"] += sum(line["downlink_bytes"] for line in lines)
            policy = read_own_object(run.policy / "metrics.json")["policies"][ONE]
            stage1 = sum(line["seconds"] for line in lines) if method == OURS else 0.0
            total["seconds"] += policy["seconds"] + stage1
            total["trainings"] += 1
            summary = None if method == OURS else summarise_objectives(lines)
            if summary is not None:
                told.setdefault(place.name.removeprefix(f"{method}-"), []).append(summary.to_dict())
        found.append(total)
    return {key: float(np.mean([one[key] for one in found])) for key in found[0]} | {"histories": told}


def table(
    summaries: Mapping[str, FrontSummary],
    gaps: Mapping[str, Estimate],
    reach: Mapping[str, Estimate],
    traffic: Mapping[str, Any],
) -> str:
    """The front table as Markdown."""
    first = next(iter(summaries))
    lines = [
        f"| method | gain on helpful, p = 0 … 1 | gain on harmless | monotone | hypervolume over the base | {first}'s "
        "less it | over the worst of all | trainings | MB up | MB down | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, summary in summaries.items():
        helpful, harmless = summary.objectives.values()
        ways = [helpful.gains, harmless.gains[::-1]]  # both in the order of the share of helpful
        gains = [", ".join(f"{gain.value:+.2f}" for gain in way) for way in ways]
        own, gap = traffic[name], gaps.get(name)
        lines.append(
            f"| {name} | {gains[0]} | {gains[1]} | {'yes' if summary.monotone else 'no'} | "
            f"{shown(summary.hypervolume)} | {'' if gap is None else shown(gap)} | {shown(reach[name])} | "
            f"{own['trainings']:.0f} | {own['uplink_bytes'] / 1e6:.1f} | {own['downlink_bytes'] / 1e6:.1f} | "
            f"{own['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def shown(estimate: Estimate) -> str:
    """A number with its intervals: of these policies, and, in parentheses, of the method."""
    text = f"{estimate.value:.2f}"
    for ends, form in ((estimate.interval, " [{:.2f}, {:.2f}]"), (estimate.method, " ([{:.2f}, {:.2f}])")):
        text += "" if ends is None else form.format(*ends)
    return text


def estimate_as_json(estimate: Estimate) -> dict[str, Any]:
    """As in every other file."""
    return {"mean": estimate.value, "ci95": estimate.interval, "method_ci95": estimate.method}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
