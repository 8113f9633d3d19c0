"""Before a comparison trains anything: how many calls its judge will make, and whether the judge answers at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedvpa.algorithms.registry import METHODS, make
from fedvpa.alignment.exact_labels import needed
from fedvpa.core.progress import say
from fedvpa.data.load import load
from fedvpa.data.prompt_files import read_prompts
from fedvpa.data.schema import PairTable
from fedvpa.data.text import plain_text
from fedvpa.evaluation.judges.base import Duel, exact_reward_of
from fedvpa.evaluation.judges.cost import CHARACTERS_PER_TOKEN
from fedvpa.evaluation.judges.make import make_judge
from fedvpa.evaluation.judges.planning import check_plan, plan, probe
from fedvpa.experiments.cells import Cell
from fedvpa.experiments.contests import EVERYBODY, PATH_STEPS, preferences_of
from fedvpa.experiments.judge_pairs import check_judge_pairs
from fedvpa.experiments.judging import VERDICTS
from fedvpa.experiments.methods import EXACT_LABELS
from fedvpa.experiments.policy_cells import was_judged
from fedvpa.experiments.policy_training import shows_path
from fedvpa.runs.config import RunConfig
from fedvpa.runs.tastes import own_tastes


def check_judging(config: RunConfig, cells: Sequence[Cell], out: Path) -> None:
    """Say what judging will take, and let the judge decide a made-up duel; nothing is trained yet.

    The judge is not tried where all cells were judged so.

    Args:
        config: What all cells share.
        cells: Of the policy stage, finished or not: the limit of calls is that of the whole folder.
        out: The comparison's folder.

    Raises:
        ConfigError: If no judge is set, it cannot judge such data or was trained on some of these pairs, a method
            needs its utilities and it knows none, or the plan needs more calls than are allowed.
        DataError: If the data cannot be loaded.
        JudgeError: If the judge gives no verdict.
    """
    rules, name = config.policy.judging, config.judge_name
    judge = make_judge(name, rules.settings, out / VERDICTS, rules.max_calls)
    if any(cell.method == EXACT_LABELS for cell in cells):
        needed(exact_reward_of(judge))
    table = load(config.resolved_data())
    check_judge_pairs(judge, table.pairs)
    preferences = preferences_of(table.groups())
    tastes = own_tastes(config, {pair.user_id for pair in table.pairs if pair.user_id is not None})
    if tastes:
        say("users have no groups: policies are judged by the own taste of each user, without a path")
    elif preferences == (EVERYBODY,):
        say(f"the pairs name no groups: policies are judged under one preference, {EVERYBODY!r}, without a path")
    prompts = _prompts(config, table)
    duels = sum(most_duels(cell, len(preferences), prompts) for cell in cells)
    estimate = plan(judge, duels, _example(config, table, preferences[0]))
    if estimate is not None:
        say(f"judge {judge.name}: at most {duels:,} duels in both orders, runs: {len(cells)}; {estimate}")
        check_plan(estimate, rules.max_calls)
    if not all(map(was_judged, cells)):
        probe(judge, sorted(tastes.values()) or preferences, table.pairs[0].prompt)


def most_duels(cell: Cell, preferences: int, prompts: int) -> int:
    """How many duels a cell has at most: every preference, by seen and by unseen users, and the path between two.

    Args:
        cell: Of the policy stage.
        preferences: How many preferences judge.
        prompts: On how many prompts.
    """
    personal = cell.method in METHODS and make(cell.method, cell.config.method_config).personal
    kinds = 2 if personal and cell.config.partition.unseen else 1
    path = 2 * PATH_STEPS if shows_path(cell) and preferences > 1 else 0
    return prompts * (kinds * preferences + path)


def _prompts(config: RunConfig, table: PairTable) -> int:
    """On how many prompts policies are judged at most; the bundled world has more than its pairs are about."""
    asked, file = config.policy.judging.prompts, config.policy.judging.prompt_file
    if file is not None:
        return min(asked, len(read_prompts(file)))
    return asked if config.data.source == "world" else min(asked, len({pair.prompt for pair in table.pairs}))


def _example(config: RunConfig, table: PairTable, preference: str) -> Duel:
    """A duel about a prompt of average length, with answers as long as they may be."""
    lengths = [len(plain_text(pair.prompt)) for pair in table.pairs]
    answer = "x" * (CHARACTERS_PER_TOKEN * config.policy.candidates.max_new_tokens)
    return Duel("x" * (sum(lengths) // len(lengths)), answer, f"{answer}.", preference)
