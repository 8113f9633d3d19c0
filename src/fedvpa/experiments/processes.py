"""Processes that run the cells of a comparison, and end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import connection
from typing import Protocol, TypeVar

import torch

from fedvpa.core.errors import FedvpaError, InputError, JudgeError
from fedvpa.core.progress import say, track
from fedvpa.runs.config import RunConfig


class HasConfig(Protocol):
    """A cell of any comparison."""

    @property
    def config(self) -> RunConfig:
        """The run."""


AnyCell = TypeVar("AnyCell", bound=HasConfig)


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
