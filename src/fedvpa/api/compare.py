"""``fedvpa compare``: methods × numbers of clients × seeds, side by side, with honest intervals."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from fedvpa import __version__
from fedvpa.algorithms import METHODS, make
from fedvpa.api.config import RunConfig, dump
from fedvpa.api.environment import environment
from fedvpa.api.prepare import prepare, prepare_holdout
from fedvpa.api.train import check_engine, conflict_scores, conflict_summary, fit, run_scores
from fedvpa.core.errors import ConfigError, FedvpaError, InputError, JudgeError, nearest
from fedvpa.core.files import write_json, write_text
from fedvpa.core.progress import say, track
from fedvpa.data import load
from fedvpa.evaluation.accuracy import infer_clients, score_clients
from fedvpa.evaluation.comparison import comparison
from fedvpa.evaluation.scores import ClientScore, load_scores, save_scores
from fedvpa.evaluation.table import table_text
from fedvpa.features.store import data_hash


class HasConfig(Protocol):
    """A cell of any comparison."""

    @property
    def config(self) -> RunConfig:
        """The run."""


AnyCell = TypeVar("AnyCell", bound=HasConfig)

DEFAULT_METHODS = ("fedvpa_gp", "fedvpl", "global", "local", "oracle")


@dataclass(frozen=True)
class Cell:
    """One run of the comparison.

    Attributes:
        config: The run.
        holdout: The hold-out's file.
        out: The comparison's folder.
        data: A hash of the pairs and of the hold-out, so that no cell outlives its data.
    """

    config: RunConfig
    holdout: Path | None
    out: Path
    data: str

    @property
    def name(self) -> str:
        """A readable name that no other cell has, with a hash of everything that matters."""
        text = json.dumps([__version__, self.config.model_dump(mode="json"), self.data], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        return f"{self.config.method}-{self.config.partition.clients}-{self.config.seed}-{digest}"

    @property
    def path(self) -> Path:
        """Where its scores are kept."""
        return self.out / "cells" / f"{self.name}.jsonl"

    @property
    def disagreed(self) -> Path:
        """Where its scores on the pairs that groups disagree on are kept."""
        return self.out / "cells" / f"{self.name}.conflicting.jsonl"

    @property
    def seconds(self) -> Path:
        """Where its training time is kept; written last, so that its presence says the cell is whole."""
        return self.path.with_suffix(".json")


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
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ConfigError(f"There is no method {unknown[0]!r}.", fix=nearest(unknown[0], METHODS))
    if not methods or not clients or seeds < 1:
        raise ConfigError("There is nothing to compare.", fix="Give at least one method, number of clients and seed.")
    check_engine(config)
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
    compared = comparison(scores, seconds) | {"conflicting": conflict_summary(disagreed)}
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


def _data_hash(config: RunConfig, holdout: Path | None) -> str:
    """A hash of what the configuration only names: the pairs of a file, and the hold-out. The world is its keys."""
    total = hashlib.sha256()
    if config.data.source != "world":
        table = load(config.data)
        total.update(data_hash(table.pairs).encode())
        total.update(repr([(pair.user_id, pair.group, pair.split, pair.weight) for pair in table.pairs]).encode())
    if holdout is not None and holdout.is_file():
        total.update(holdout.read_bytes())
    return total.hexdigest()


def worker_pool(jobs: int) -> ProcessPoolExecutor:
    """Fresh processes whose kernels run on one core each."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(1,))


def run_all(cells: Sequence[AnyCell], jobs: int, run: Callable[[AnyCell], None]) -> None:
    """Run the cells in processes that end with this one, however it ends."""
    if not cells:
        return
    say(f"{len(cells)} runs in {min(jobs, len(cells))} processes")
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(jobs, len(cells)), context, initializer=_start_worker)
    futures = {pool.submit(run, cell): cell for cell in cells}
    try:
        for future in track(as_completed(futures), "runs", len(futures), unit="runs"):
            error = future.exception()
            if error is not None:
                raise _named(error, futures[future]) from error
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    pool.shutdown()


def _start_worker() -> None:
    """One thread; Ctrl-C is the parent's to handle; end when the parent does, even if it is killed."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (connection.wait([sentinel]), os._exit(1)), daemon=True).start()


def _named(error: BaseException, cell: HasConfig) -> FedvpaError:
    """The error of a cell, with the cell's name."""
    settings = cell.config
    where = f"{settings.method}, N = {settings.partition.clients}, seed {settings.seed}"
    if isinstance(error, InputError | JudgeError):
        place = f"{where}: {error.where}" if error.where else where
        return type(error)(error.problem, fix=error.fix, where=place)
    return FedvpaError(f"{where} failed: {type(error).__name__}: {error}")


def run_cell(cell: Cell) -> None:
    """Train, score, and keep the scores of one run."""
    config = cell.config.model_copy(update={"engine": cell.config.engine.model_copy(update={"workers": 1})})
    prepared = prepare(config)
    done = fit(config, prepared)
    by_group = make(config.method, config.method_config).reads_groups
    scores = run_scores(config, prepared, done, by_group)
    if cell.holdout is not None:
        held = prepare_holdout(config, cell.holdout, prepared.table, prepared.federation.scaling)
        seen = prepared.federation.partition.seen
        further = score_clients(
            done.selector,
            prepared.federation,
            seen,
            done.posterior,
            method=config.method,
            seed=config.seed,
            holdout=held,
        )
        scores = further + [score for score in scores if not score.seen or score.method != config.method]
    save_scores(cell.path, scores)
    save_scores(cell.disagreed, conflict_scores(config, prepared, done))
    write_json(cell.seconds, {"seconds": done.seconds})


def few_shot(config: RunConfig, shots: Sequence[int]) -> dict[int, list[ClientScore]]:
    """Scores of unseen clients by the number of labelled pairs that they give."""
    prepared = prepare(config)
    done = fit(config, prepared)
    unseen = prepared.federation.partition.unseen
    found = {}
    for count in shots:
        posterior = infer_clients(done.selector, prepared.federation, unseen, shots=count)
        found[count] = score_clients(
            done.selector, prepared.federation, unseen, posterior, method=config.method, seed=config.seed
        )
    return found
