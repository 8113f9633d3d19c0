"""Work for processes that tests start: they can import it, unlike a test file."""

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from fedvpa.core.errors import DataError
from fedvpa.core.registry import Registry

REGISTRY: Registry[type] = Registry("sort", {"list": "builtins:list"})
PLACE = "some_work:REGISTRY"


class Place(NamedTuple):
    item: int
    pid: int
    threads: int
    hears_ctrl_c: bool


class Sorted(list):
    """A plugin."""


class OddError(Exception):
    """Can be written by pickle and not read."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(f"{text} {number}")


def gpus(item: int) -> str | None:
    time.sleep(0.2)  # so that no process does all of it
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def place(item: int) -> Place:
    import torch

    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return Place(item, os.getpid(), torch.get_num_threads(), not ignored)


def fail(item: str) -> None:
    if item == "wrong":
        raise DataError("is wrong.", fix="Mend it.", where="file:5")
    if item == "odd":
        raise OddError("odd", 3)
    if item == "dies":
        os._exit(7)


def hang(folder: Path) -> None:
    """Leave one's process id, and never end; deaf to SIGTERM in a folder of that name."""
    if folder.name == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / f"{os.getpid()}.pid").touch()
    while True:
        time.sleep(60)


def registered(item: int) -> list[str]:
    return REGISTRY.names()
