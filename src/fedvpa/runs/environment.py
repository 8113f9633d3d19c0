"""What a run depended on: versions, hardware, commit."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fedvpa.core.compute import processor_name
from fedvpa.core.schema import VERSIONS

PACKAGES = (
    "fedvpa",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "datasets",
    "numpy",
    "scipy",
    "scikit-learn",
    "trl",
    "peft",
    "accelerate",
)
OPTIONAL = ("flwr", "openai")
"""Packages of the extras; recorded where they are installed."""


@dataclass(frozen=True)
class Environment:
    """What a run depended on.

    A run resumes bit for bit under the same versions, with as many threads (going on sets them again) and on the same
    kind of processor.

    Attributes:
        python: Its version.
        platform: The operating system.
        packages: Package → version.
        cpu_count: Processor cores.
        processor: The kind of processor.
        torch_threads: Threads of torch's kernels.
        gpu: The GPU's name; None without one.
        git_commit: Of fedvpa; None outside a checkout.
        seed: Of the run.
    """

    python: str
    platform: str
    packages: Mapping[str, str]
    cpu_count: int | None
    processor: str
    torch_threads: int
    gpu: str | None
    git_commit: str | None
    seed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """What ``environment.json`` holds."""
        return {"schema_version": VERSIONS["environment"], **asdict(self)}


def environment(seed: int | None = None) -> Environment:
    """Of this process.

    Args:
        seed: The run's.
    """
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages=installed((*PACKAGES, *OPTIONAL)),
        cpu_count=os.cpu_count(),
        processor=processor_name(),
        torch_threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        git_commit=_commit(),
        seed=seed,
    )


def installed(names: Iterable[str]) -> dict[str, str]:
    """Package → version, of those that are installed."""
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
