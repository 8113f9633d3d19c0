"""Both stages of one cell, and the duels of its policies."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from fedvpa.alignment.dpo_job import DPOJob
from fedvpa.alignment.job import train_in_memory
from fedvpa.alignment.stage1 import ONE
from fedvpa.evaluation.judges.make import make_judge
from fedvpa.evaluation.outcomes import save_outcomes
from fedvpa.experiments.cells import Cell
from fedvpa.experiments.client_models import TRAINED_BY_CLIENTS
from fedvpa.experiments.duels import all_outcomes, open_duels, path_outcomes
from fedvpa.experiments.judge_check import VERDICTS
from fedvpa.experiments.methods import OURS
from fedvpa.runs.fit import fit, stage1_of
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
    config = config.model_copy(update={"features": prepared.features})
    stage = stage1_of(config, prepared, fit(config, prepared))
    started = time.monotonic()
    if cell.method in TRAINED_BY_CLIENTS:
        policy, notes = TRAINED_BY_CLIENTS[cell.method](stage)
        policies = {ONE: policy}
    else:
        trained = {name: train_in_memory(DPOJob(stage, name)) for name in stage.policies}
        policies = {name: policy for name, (policy, _) in trained.items()}
        notes = {name: report for name, (_, report) in trained.items()}
    seconds = time.monotonic() - started
    rules = config.policy.judging
    judge = make_judge(config.judge_name, rules.settings, cell.out / VERDICTS, rules.max_calls)
    duels = open_duels(stage, next(iter(policies.values())), judge, rules)
    outcomes = all_outcomes(duels, stage, policies)
    save_outcomes(outcomes_path(cell), [replace(one, method=cell.method) for one in outcomes])
    if cell.method == OURS and len(stage.groups) > 1:
        for step, on_path in enumerate(path_outcomes(duels, stage, next(iter(policies.values())))):
            save_outcomes(step_path(cell, step), on_path)
    cell.finish(seconds, policies=notes)
