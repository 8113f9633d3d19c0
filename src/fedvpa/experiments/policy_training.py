"""Both stages of one cell, and the duels of its policies."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from fedvpa.alignment.setup import problem
from fedvpa.alignment.stage1 import ONE, Stage1
from fedvpa.api.align import train_policy
from fedvpa.evaluation.judges.make import make_judge
from fedvpa.evaluation.outcomes import save_outcomes
from fedvpa.experiments.cells import Cell
from fedvpa.experiments.client_models import TRAINED_BY_CLIENTS
from fedvpa.experiments.duels import all_outcomes, arena, path_outcomes
from fedvpa.experiments.methods import OURS
from fedvpa.runs.fit import fit
from fedvpa.runs.prepare import prepare


def outcomes_path(cell: Cell) -> Path:
    """Where the duels of a cell are kept."""
    return cell.folder / "outcomes.jsonl"


def step_path(cell: Cell, step: int) -> Path:
    """Where the duels at one step of the way from one preference to another are kept; not there without z."""
    return cell.folder / f"path-{step}.jsonl"


def run_policy_cell(cell: Cell) -> None:
    """Both stages of one cell, and its duels."""
    config = cell.config.model_copy(update={"engine": cell.config.engine.model_copy(update={"workers": 1})})
    prepared = prepare(config)
    done = fit(config, prepared)
    stage = Stage1(config, prepared, done.selector, done.posterior)
    started = time.monotonic()
    if cell.method in TRAINED_BY_CLIENTS:
        policy, notes = TRAINED_BY_CLIENTS[cell.method](stage)
        policies = {ONE: policy}
    else:
        trained = {name: train_policy(problem(stage, name)) for name in stage.policies}
        policies = {name: policy for name, (policy, _) in trained.items()}
        notes = {name: told for name, (_, told) in trained.items()}
    seconds = time.monotonic() - started
    rules = config.policy.judging
    judge = make_judge(rules.judge, rules.settings, cell.out / "verdicts.jsonl")
    field = arena(stage, next(iter(policies.values())), judge, rules)
    outcomes = all_outcomes(field, stage, policies)
    save_outcomes(outcomes_path(cell), [replace(one, method=cell.method) for one in outcomes])
    if cell.method == OURS and len(stage.groups) > 1:
        for step, found in enumerate(path_outcomes(field, stage, next(iter(policies.values())))):
            save_outcomes(step_path(cell, step), found)
    cell.finish(seconds, policies=notes)
