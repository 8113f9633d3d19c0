"""How much memory is free for keys and values."""

from __future__ import annotations

import os
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
"""Where Linux says what is free, and what a container may have."""


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, or in the container of this process; half of all memory where no one says.

    Args:
        device: A GPU, or the CPU.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [value for value in (_available(), _in_container()) if value is not None]
    return min(found) if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _available() -> int | None:
    lines = _text(MEMINFO).splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _in_container() -> int | None:
    """What the second version of control groups leaves; None without a limit."""
    most, used = (_text(CGROUP / name).strip() for name in ("memory.max", "memory.current"))
    return max(0, int(most) - int(used)) if most.isdigit() and used.isdigit() else None


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
