"""Facts about the machine, printed beside every measurement."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def machine_facts() -> dict[str, str | int]:
    """Processor and its vector instructions, cores, threads, versions."""
    return {
        "cpu": cpu_model(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
