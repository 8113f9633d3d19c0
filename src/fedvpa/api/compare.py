"""``fedvpa compare``: methods × numbers of clients × seeds, side by side, with honest intervals."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedvpa.algorithms.registry import METHODS, make
from fedvpa.core.errors import ConfigError, InputError
from fedvpa.core.files import write_json, write_text
from fedvpa.evaluation.accuracy_tables import comparison
from fedvpa.evaluation.report.tables import table_text
from fedvpa.evaluation.scores import ClientScore, load_scores, save_scores
from fedvpa.experiments.processes import run_all
from fedvpa.experiments.selector_cells import Cell, _data_hash, run_cell
from fedvpa.runs.config import RunConfig, dump
from fedvpa.runs.environment import environment
from fedvpa.runs.prepare import prepare, prepare_holdout
from fedvpa.runs.scores import conflict_summary

DEFAULT_METHODS = ("fedvpa_gp", "fedvpl", "global", "local", "oracle")


def compare(
    config: RunConfig,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    clients: Sequence[int] = (10, 50, 100),
    seeds: int = 5,
    first_seed: int = 0,
    holdout: Path | None = None,
    out: Path,
    jobs: int | None = None,
) -> dict[str, Any]:
    """Run every (method, clients, seed) and write ``out/comparison.json``.

    Cells that an earlier call finished under the same configuration are read instead of run again.

    Args:
        config: What all runs share.
        methods: Names of methods.
        clients: Numbers of seen clients.
        seeds: How many seeds.
        first_seed: The first of them.
        holdout: Further labelled pairs, seen by nobody, on which every client is scored with those of its own group.
        out: The folder to write to.
        jobs: Processes, each with one thread; by default one per core. Results do not depend on it.

    Returns:
        What ``comparison.json`` holds.

    Raises:
        InputError: If a method, the configuration or the data cannot be used; nothing has run then.
    """
    for name in methods:
        METHODS.check(name)
    if not methods or not clients or seeds < 1:
        raise ConfigError("There is nothing to compare.", fix="Give at least one method, number of clients and seed.")
    config.check_engine()
    for name in methods:
        _check_method(config, name)
    settings = [config.with_clients(n).with_seed(first_seed + seed) for n in clients for seed in range(seeds)]
    data = _data_hash(config, holdout)
    cells = [Cell(setting.with_method(name), holdout, out, data) for setting in settings for name in methods]
    missing = [cell for cell in cells if not cell.seconds.exists()]
    for setting in settings if missing else ():
        ready = prepare(setting)
        if holdout is not None:
            prepare_holdout(setting, holdout, ready.table, ready.federation.scaling)
        if config.data.source != "world":
            break
    run_all(missing, jobs or os.cpu_count() or 1, run_cell)
    scores: list[ClientScore] = []
    disagreed: list[ClientScore] = []
    seconds = {}
    for cell in cells:
        found = load_scores(cell.path)
        scores += found
        disagreed += load_scores(cell.disagreed)
        key = (cell.config.method, found[0].n_clients, cell.config.seed)
        seconds[key] = json.loads(cell.seconds.read_text(encoding="utf-8"))["seconds"]
    compared = comparison(scores, seconds).to_dict() | {"conflicting": conflict_summary(disagreed)}
    save_scores(out / "scores.jsonl", scores)
    write_text(out / "config.yaml", dump(config))
    write_json(out / "environment.json", environment())
    write_json(out / "comparison.json", compared)
    write_text(out / "comparison.txt", table_text(compared, 140))
    return compared


def _check_method(config: RunConfig, method: str) -> None:
    """Raise what the method has against the configuration, before anything runs for the others."""
    try:
        make(method, config.method_config)
    except InputError as error:
        fix = f"{error.fix} Or leave {method} out of --methods."
        raise type(error)(error.problem, fix=fix, where=error.where) from error
