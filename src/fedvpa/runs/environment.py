"""What a run depended on: versions, hardware, commit."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fedvpa.core.compute import processor_name

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


def environment(seed: int | None = None) -> dict[str, Any]:
    """Versions, hardware, seed and git commit (None outside a checkout).

    A run resumes bit for bit under the same versions, with as many threads (``torch_threads``, which going on sets
    again) and on the same kind of processor.
    """
    return {
        "schema_version": 1,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in PACKAGES} | installed(OPTIONAL),
        "cpu_count": os.cpu_count(),
        "processor": processor_name(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": _commit(),
        "seed": seed,
    }


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
