"""Work on many items in several processes, which end when the caller does, however it ends; or in the caller itself."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from fedvpa.core.errors import ConfigError, FedvpaError, InputError, JudgeError
from fedvpa.core.progress import say, track
from fedvpa.core.registry import REGISTRIES
from fedvpa.core.signals import stopping
from fedvpa.experiments.plugins import main_can_be_imported, pack
from fedvpa.experiments.worker import one_thread, serve

Item = TypeVar("Item")
Result = TypeVar("Result")

GRACE_SECONDS = 5.0
"""How long a process may take to end before it is killed. It keeps results whole or not at all, so nothing is lost."""

POLL_SECONDS = 0.1
"""How often a signal is looked for."""


def run_all(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int | None = None,
    *,
    what: str = "runs",
    label: Callable[[Item], str] | None = None,
    places: Sequence[str] = (),
) -> list[Result]:
    """Do the same work on every item; results do not depend on the number of processes.

    Args:
        work: A function that other processes can import. PyTorch has one thread while it runs.
        items: What pickle can send.
        jobs: Processes; by default one for each of ``places``, or one per core where there are none. With 1 nothing is
            started: the work is done in this process.
        what: What items are called in progress.
        label: How an item is named when its work fails; by default its error is raised as it is.
        places: What each process sees of the GPUs, by turns; see :func:`fedvpa.models.device.places_of`.

    Returns:
        The results, in the order of the items.

    Raises:
        ConfigError: If ``jobs`` is below 1, or this program registered what other processes cannot import.
        FedvpaError: The error of the first item that fails, or that a process ended before its work was done.

    A first SIGINT or SIGTERM ends all processes, then takes the course that it has outside.
    """
    jobs = min(check_jobs(jobs, places), len(items))
    if not items:
        return []
    say(f"{len(items)} {what} in {'this process' if jobs == 1 else f'{jobs} processes'}")
    if jobs == 1:
        with one_thread():
            return list(track((_done(work, item, label) for item in items), what, len(items), unit=what))
    shares = [places[number % len(places)] if places else "" for number in range(jobs)]
    return _in_processes(work, items, shares, what, label)


def check_jobs(jobs: int | None, places: Sequence[str] = ()) -> int:
    """The number of processes; for None one for each place, or one per core where there are none.

    Raises:
        ConfigError: If it is below 1.
    """
    if jobs is None:
        return len(places) or os.cpu_count() or 1
    if jobs < 1:
        raise ConfigError(f"jobs = {jobs} is no number of processes.", fix="Give 1 or more.")
    return jobs


def named(error: BaseException, label: str) -> FedvpaError:
    """The error of an item, with the item's name."""
    if isinstance(error, InputError | JudgeError):
        place = f"{label}: {error.where}" if error.where else label
        return type(error)(error.problem, fix=error.fix, where=place)
    return FedvpaError(f"{label} failed: {type(error).__name__}: {error}")


def _done(work: Callable[[Item], Result], item: Item, label: Callable[[Item], str] | None) -> Result:
    try:
        return work(item)
    except Exception as error:
        if label is None:
            raise
        raise named(error, label(item)) from error


def _in_processes(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    shares: Sequence[str],
    what: str,
    label: Callable[[Item], str] | None,
) -> list[Result]:
    tasks, plugins = [pickle.dumps((work, item)) for item in items], pack(tuple(REGISTRIES.values()))
    results: dict[int, Result] = {}

    def accept(index: int, succeeded: bool, found: Any) -> Result:
        if succeeded:
            result: Result = found
            return result
        if label is None:
            raise found
        raise named(found, label(items[index])) from found

    with stopping("ending the processes") as stop:
        # Signals are only remembered here, so that none can come between a process and the list that ends it.
        with _processes(shares, plugins, stop) as workers:
            for index, answer in track(_answers(workers, tasks, stop), what, len(tasks), unit=what):
                results[index] = accept(index, *answer)
        stopped = stop()
    if stopped:
        signal.raise_signal(stopped)
    return [results[index] for index in range(len(items))]


@dataclass(frozen=True)
class _Worker:
    """A process and the caller's end of its pipe."""

    process: SpawnProcess
    pipe: Connection


@contextmanager
def _processes(shares: Sequence[str], plugins: bytes, stop: Callable[[], int]) -> Iterator[list[_Worker]]:
    """Fresh processes, one for each share of the GPUs.

    All have ended and are reaped when the context ends, by a signal if one came or on an error.
    """
    workers: list[_Worker] = []
    try:
        with _ready_to_start():
            for share in shares:
                workers.append(_start(plugins, share))
        yield workers
        if not stop():
            for worker in workers:
                worker.pipe.close()
            _join(workers)
    finally:
        for worker in workers:
            worker.process.terminate()
        try:
            _join(workers)
        finally:
            for worker in workers:
                worker.process.kill()
                worker.process.join()
                worker.process.close()
                worker.pipe.close()


def _start(plugins: bytes, gpus: str) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, plugins, gpus))
    process.start()
    # With this end closed here, the pipe says so when the process ends.
    theirs.close()
    return _Worker(process, ours)


@contextmanager
def _ready_to_start() -> Iterator[None]:
    """Let processes start with SIGINT blocked, and without a main module that cannot be imported.

    Ctrl-C on a terminal goes to all its processes; one that is still importing would print a traceback. A script on
    standard input says that its file is ``<stdin>``, which a new process would look for.
    """
    main = sys.modules["__main__"]
    hidden = {} if main_can_be_imported() else {"__file__": vars(main).pop("__file__", None)}
    resource_tracker.ensure_running()  # which unblocks SIGINT when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        vars(main).update({name: value for name, value in hidden.items() if value is not None})


def _join(workers: Sequence[_Worker]) -> None:
    end = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, end - time.monotonic()))


def _answers(
    workers: Sequence[_Worker], tasks: Sequence[bytes], stop: Callable[[], int]
) -> Iterator[tuple[int, tuple[bool, Any]]]:
    """Each task's number and answer, as they come, until there are no more or a signal came."""
    waiting = deque(enumerate(tasks))
    busy: dict[Connection, tuple[int, _Worker]] = {}
    idle = list(workers)
    while (waiting or busy) and not stop():
        while waiting and idle:
            worker = idle.pop()
            index, task = waiting.popleft()
            busy[worker.pipe] = index, worker
            _send(worker, task)
        ready = connection.wait(list(busy), POLL_SECONDS)
        for pipe in [pipe for pipe in busy if pipe in ready]:
            index, worker = busy.pop(pipe)
            answer = _receive(worker, stop)
            if answer is None:
                return
            idle.append(worker)
            yield index, answer


def _send(worker: _Worker, task: bytes) -> None:
    # A process that has ended is noticed when its answer is read.
    with suppress(ConnectionError):
        worker.pipe.send_bytes(task)


def _receive(worker: _Worker, stop: Callable[[], int]) -> tuple[bool, Any] | None:
    """The answer of a process; None if it was ended by the signal that this one got too."""
    try:
        answer: tuple[bool, Any] = pickle.loads(worker.pipe.recv_bytes())
    except (EOFError, OSError):
        worker.process.join(GRACE_SECONDS)
        if stop():
            return None
        raise FedvpaError(
            f"A process ended with exit code {worker.process.exitcode} before its work was done. Messages of its own "
            "are above; a negative code is a signal, and -9 is often a lack of memory. A script that starts processes "
            'has to do so below `if __name__ == "__main__":`. With one process (jobs=1) none is started.'
        ) from None
    return answer
