"""What bit-exact resuming needs of a machine: the same numbers of threads, and the same kind of processor.

Kernels share a sum out to their threads and add the parts, so another number of threads rounds differently; another
kind of processor has other kernels. A checkpoint therefore records both, and going on sets the threads again.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch

from fedvpa.core.progress import say


@dataclass(frozen=True)
class Compute:
    """How a run computes.

    Attributes:
        threads: Threads of torch's kernels.
        processor: The kind of processor, and of GPU where there is one.
        workers: Threads that share out a cohort; 0 where none do.
    """

    threads: int
    processor: str
    workers: int = 0

    @classmethod
    def current(cls, workers: int = 0) -> Self:
        """Of this process."""
        return cls(torch.get_num_threads(), processor_name(), workers)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, saved: dict[str, Any] | str | None) -> Self | None:
        """What :meth:`to_dict` gave, or its JSON text; None of nothing, as earlier releases recorded nothing."""
        values = json.loads(saved) if isinstance(saved, str) else saved
        return None if values is None else cls(**values)


def restore(saved: Compute | None, what: str) -> None:
    """Compute as ``saved`` did, so that going on is exact; where that cannot be, say so.

    Args:
        saved: From the checkpoint.
        what: Names the checkpoint in messages.
    """
    if saved is None:
        say(
            f"{what} does not say with how many threads it was made: the result equals an uninterrupted run's bit for "
            f"bit only if that number was {torch.get_num_threads()}, as now"
        )
        return
    if saved.threads != torch.get_num_threads():
        say(f"{what} was made with {saved.threads} threads: set again, instead of {torch.get_num_threads()}")
        torch.set_num_threads(saved.threads)
    if saved.processor != processor_name():
        say(
            f"{what} was made on another kind of processor ({saved.processor}; here {processor_name()}): the result "
            "equals an uninterrupted run's up to rounding, not bit for bit"
        )


def processor_name() -> str:
    """The model name of the processor, and of the GPU where torch sees one."""
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name
