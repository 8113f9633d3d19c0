"""``fedvpa compare --stage policy``: the policies of all methods, trained and judged on equal terms."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedvpa import __version__
from fedvpa.algorithms.registry import METHODS
from fedvpa.alignment.dpo_job import DPOJob
from fedvpa.alignment.job import train_in_memory
from fedvpa.alignment.stage1 import ONE
from fedvpa.api.compare import compare
from fedvpa.core.errors import ConfigError, nearest
from fedvpa.core.files import write_json
from fedvpa.evaluation.judges.make import make_judge
from fedvpa.evaluation.outcomes import Outcome, load_outcomes, save_outcomes
from fedvpa.evaluation.samples import side_by_side
from fedvpa.evaluation.switching import switching
from fedvpa.evaluation.win_rates import policy_comparison
from fedvpa.experiments.client_models import FEDBISCUIT_LORA, FEDDPO, TRAINED_BY_CLIENTS
from fedvpa.experiments.duels import PATH_STEPS, all_outcomes, open_duels, path_outcomes
from fedvpa.experiments.processes import run_all
from fedvpa.runs.config import RunConfig
from fedvpa.runs.fit import fit, stage1_of
from fedvpa.runs.prepare import prepare

SAMPLES = 4
"""Prompts that are shown side by side."""

OURS = "fedvpa_gp"
"""The method whose switching is shown."""

DEFAULT_POLICY_METHODS = (OURS, "fedvpl", "global", "fedbiscuit", FEDDPO, "oracle")
"""The methods of a comparison, in the order of the paper's table, with ours first and the yardstick last."""

POLICY_METHODS = (*DEFAULT_POLICY_METHODS, FEDBISCUIT_LORA)
"""All methods that give a policy; the last is dear, and in no comparison unless it is asked for."""


@dataclass(frozen=True)
class PolicyCell:
    """One method on one seed, both stages.

    Attributes:
        method: One of ``POLICY_METHODS``.
        config: The run; its method is ``global`` for those of ``TRAINED_BY_CLIENTS``, which need its pairs alone.
        out: The comparison's folder.
    """

    method: str
    config: RunConfig
    out: Path

    @property
    def name(self) -> str:
        """A readable name that no other cell has, with a hash of everything that matters."""
        text = json.dumps([__version__, self.method, self.config.model_dump(mode="json")], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        return f"{self.method}-{self.config.partition.clients}-{self.config.seed}-{digest}"

    @property
    def folder(self) -> Path:
        """Where its outcomes are kept."""
        return self.out / "policies" / self.name

    def path(self) -> list[tuple[float, list[Outcome]]]:
        """The outcomes on the way from one preference to another, by place; empty for a policy without z."""
        files = [self.folder / f"path-{step}.jsonl" for step in range(PATH_STEPS)]
        return [(step / (PATH_STEPS - 1), load_outcomes(file)) for step, file in enumerate(files) if file.is_file()]

    @property
    def seconds(self) -> Path:
        """Where its time is kept; written last, so that its presence says the cell is whole."""
        return self.folder / "seconds.json"


def compare_policies(
    config: RunConfig,
    *,
    methods: Sequence[str] = DEFAULT_POLICY_METHODS,
    clients: Sequence[int],
    seeds: int,
    first_seed: int = 0,
    out: Path,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Train every method's selector and policy on every (clients, seed), and write ``out/comparison.json``.

    Stage 1 is compared first, so that the file holds both; finished cells are reused. Arguments as of
    :func:`fedvpa.api.compare.compare`; ``methods`` are of ``POLICY_METHODS``.

    Raises:
        InputError: If a method, the judge, the configuration or the data cannot be used; nothing has run then.
    """
    _check(methods)
    make_judge(config.policy.judging.judge, config.policy.judging.settings)
    selectors = [name for name in methods if name in METHODS]
    first = compare(
        config,
        methods=selectors or ["global"],
        clients=clients,
        seeds=seeds,
        first_seed=first_seed,
        holdout=None,
        out=out,
        jobs=jobs,
    )
    cells = policy_cells(config, methods=methods, clients=clients, seeds=seeds, first_seed=first_seed, out=out)
    compared = first | run_policies(cells, jobs)
    write_json(out / "comparison.json", compared)
    return compared


def policy_cells(
    config: RunConfig, *, methods: Sequence[str], clients: Sequence[int], seeds: int, first_seed: int, out: Path
) -> list[PolicyCell]:
    """One cell for each method, number of clients and seed; the methods of one seed next to each other.

    Raises:
        ConfigError: For an unknown method.
    """
    _check(methods)
    settings = [config.with_clients(n).with_seed(first_seed + seed) for n in clients for seed in range(seeds)]
    return [
        PolicyCell(name, setting.with_method(name if name in METHODS else "global"), out)
        for setting in settings
        for name in methods
    ]


def run_policies(cells: Sequence[PolicyCell], jobs: int | None) -> dict[str, Any]:
    """Run the cells that are not finished, and gather all."""
    run_all([cell for cell in cells if not cell.seconds.exists()], jobs or os.cpu_count() or 1, run_policy_cell)
    return gather(cells)


def _check(methods: Sequence[str]) -> None:
    if not methods:
        raise ConfigError("No method is given.", fix=f"Give some of {', '.join(POLICY_METHODS)}.")
    for name in methods:
        if name not in POLICY_METHODS:
            raise ConfigError(f"There is no method {name!r} with a policy.", fix=nearest(name, POLICY_METHODS))


def gather(cells: Sequence[PolicyCell]) -> dict[str, Any]:
    """What the finished cells say, as the policy keys of ``comparison.json``; switching is that of the first size."""
    outcomes: list[Outcome] = []
    path: dict[float, list[Outcome]] = defaultdict(list)
    seconds = {}
    for cell in cells:
        found = load_outcomes(cell.folder / "outcomes.jsonl")
        outcomes += found
        told = json.loads(cell.seconds.read_text(encoding="utf-8"))
        seconds[(cell.method, found[0].n_clients, cell.config.seed)] = told["seconds"]
        if cell.method == OURS and cell.config.partition.clients == cells[0].config.partition.clients:
            for share, told_there in cell.path():
                path[share] += told_there
    compared = policy_comparison(outcomes, seconds).to_dict()
    return compared | ({"switching": switching(path).to_dict(), "policy_samples": _samples(path)} if path else {})


def _samples(path: Mapping[float, Sequence[Outcome]]) -> list[dict[str, Any]]:
    """The first prompts, answered along the way: ``prompt`` and ``answers`` of ``label``, ``text``, ``utilities``."""
    first = path[min(path)]
    shown = list(dict.fromkeys(outcome.prompt for outcome in first if outcome.seed == first[0].seed))[:SAMPLES]
    return [sample.to_dict() for sample in side_by_side({f"z at {share:.0%}": path[share] for share in path}, shown)]


def run_policy_cell(cell: PolicyCell) -> None:
    """Both stages of one cell, and its duels."""
    config = cell.config.model_copy(update={"engine": cell.config.engine.model_copy(update={"workers": 1})})
    prepared = prepare(config)
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
    judge = make_judge(rules.judge, rules.settings, cell.out / "verdicts.jsonl")
    duels = open_duels(stage, next(iter(policies.values())), judge, rules)
    outcomes = all_outcomes(duels, stage, policies)
    save_outcomes(cell.folder / "outcomes.jsonl", [replace(one, method=cell.method) for one in outcomes])
    if cell.method == OURS and len(stage.groups) > 1:
        for step, found in enumerate(path_outcomes(duels, stage, next(iter(policies.values())))):
            save_outcomes(cell.folder / f"path-{step}.jsonl", found)
    write_json(cell.seconds, {"seconds": seconds, "policies": notes})
