"""The training of a policy cell: both stages, left behind as a run directory that every verb opens."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedvpa.algorithms.fedbiscuit_lora import NAME as FEDBISCUIT_LORA
from fedvpa.algorithms.registry import POLICY_METHODS
from fedvpa.alignment.dpo_job import DPOJob
from fedvpa.alignment.exact_labels import exact_labeller
from fedvpa.alignment.job import train_in_memory
from fedvpa.alignment.stage1 import ONE, Stage1
from fedvpa.core.files import write_json
from fedvpa.core.schema import VERSIONS
from fedvpa.experiments.cells import Cell
from fedvpa.experiments.client_models import train_by_clients, train_fedbiscuit_lora_policy
from fedvpa.experiments.judging import Candidate, open_candidate, sample_answers
from fedvpa.experiments.methods import EXACT_LABELS, OURS
from fedvpa.policy.files import PREFERENCES
from fedvpa.policy.policy import Policy
from fedvpa.runs.environment import environment
from fedvpa.runs.fit import fit, run_users, stage1_of
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.policies import save_policy
from fedvpa.runs.prepare import prepare
from fedvpa.runs.released import check_methods, released
from fedvpa.runs.users import save_users


def run_of(cell: Cell) -> RunFolder:
    """The run directory of a policy cell."""
    return RunFolder(cell.folder)


def shows_path(cell: Cell) -> bool:
    """Whether the way from one preference to another is judged: of our method, whose switching is shown."""
    return cell.method == OURS


def candidate_of(cell: Cell) -> Candidate:
    """What is judged of a trained cell, as its configuration asks for."""
    run = run_of(cell)
    config = cell.config.model_copy(update={"features": run.config().features})
    return open_candidate(run, config, along=shows_path(cell))


def run_policy_cell(cell: Cell) -> None:
    """Train and save the policies of a cell, unless they are there, and sample the answers that are not."""
    policies = None if cell.is_done else _train(cell)
    sample_answers(candidate_of(cell), policies)


def _train(cell: Cell) -> dict[str, Policy]:
    config = cell.config.model_copy(update={"engine": cell.config.engine.model_copy(update={"workers": 1})})
    check_methods(config, [cell.method])
    prepared, run = prepare(config), run_of(cell)
    config = config.model_copy(update={"features": prepared.features})
    run.begin(config, environment(config.seed).to_dict())
    trained = fit(config, prepared)
    stage = stage1_of(config, prepared, trained)
    if cell.method == config.method:  # others are trained by clients or by exact labels: yardsticks, of no selector
        stage = released(stage, config)
    trained.selector.save_pretrained(run.selector)
    save_users(run.users, run_users(prepared, trained))
    started = time.monotonic()
    policies, notes = _train_policies(run, cell, stage, trained.privacy)
    seconds = time.monotonic() - started
    own = bool(stage.personal and cell.method == config.method)
    write_json(run.policy / PREFERENCES, stage.named_preferences() if own else {})
    metrics = {"schema_version": VERSIONS["policy metrics"], "method": cell.method, "policies": notes}
    write_json(run.policy / "metrics.json", metrics)
    cell.finish(seconds, policies=notes, held_out=prepared.held_out.to_dict())
    return policies


def _train_policies(
    run: RunFolder, cell: Cell, stage: Stage1, spent: Mapping[str, Any] | None
) -> tuple[dict[str, Policy], dict[str, Any]]:
    """The policies by name, each saved at once, and what there is to say about them."""
    policies, notes = dict[str, Policy](), dict[str, Any]()
    if cell.method in POLICY_METHODS or cell.method == FEDBISCUIT_LORA:
        policies[ONE], notes[ONE] = _by_clients(cell, stage, run.policy_history(ONE), spent)
        save_policy(run, policies[ONE], cell.method, ONE, stage.policy, notes[ONE])
    else:
        for name in stage.policies:
            policies[name], notes[name] = train_in_memory(_dpo(cell, stage, name), run.policy_history(name))
            save_policy(run, policies[name], cell.method, name, stage.policy, notes[name])
    return policies, notes


def _dpo(cell: Cell, stage: Stage1, name: str) -> DPOJob:
    if cell.method != EXACT_LABELS:
        return DPOJob(stage, name, stops=False)
    return DPOJob(
        stage, name, labelled_by=lambda policy, texts: exact_labeller(stage, policy, name, texts), method=EXACT_LABELS
    )


def _by_clients(
    cell: Cell, stage: Stage1, history: Path, spent: Mapping[str, Any] | None
) -> tuple[Policy, dict[str, Any]]:
    if cell.method == FEDBISCUIT_LORA:
        return train_fedbiscuit_lora_policy(stage, history)
    return train_by_clients(cell.method, stage, cell.config, history, spent)
