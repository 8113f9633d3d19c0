"""The inside of a process that works for another one."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection

from fedvpa.core.errors import FedvpaError
from fedvpa.experiments.plugins import unpack


def serve(pipe: Connection, plugins: bytes, gpus: str = "") -> None:
    """Answer tasks until the pipe is closed.

    A task is a pickled (function, item). An answer is (True, what the function returned) or (False, its error).

    Args:
        pipe: Where tasks come from and answers go.
        plugins: What the other process registered.
        gpus: The GPUs that this process sees; empty for those of the other process.
    """
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    # The process was started with SIGINT blocked: Ctrl-C is the parent's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _end_with_parent()
    with one_thread():
        while True:
            try:
                task = pipe.recv_bytes()
            except EOFError:
                return
            pipe.send_bytes(_answer(task, plugins))
            plugins = b""


@contextmanager
def one_thread() -> Iterator[None]:
    """While inside, the kernels of PyTorch run on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _end_with_parent() -> None:
    """End when the parent does, even if it is killed; a thread waits for that."""
    parent = parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (connection.wait([sentinel]), os._exit(1)), daemon=True).start()


def _answer(task: bytes, plugins: bytes) -> bytes:
    try:
        if plugins:
            unpack(plugins)
        work, item = pickle.loads(task)
        return pickle.dumps((True, work(item)))
    except Exception as error:
        found = _portable(error)
        found.add_note(f"In the process that ran it:\n{traceback.format_exc()}")
        return pickle.dumps((False, found))


def _portable(error: Exception) -> Exception:
    """The error, or its text where the other process could not read it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the error's own constructor raises
        return FedvpaError(f"{type(error).__name__}: {error}")
    return error
