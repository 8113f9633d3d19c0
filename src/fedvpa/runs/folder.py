"""A run directory: its files, its configuration, its history."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from fedvpa.core.config import flat
from fedvpa.core.errors import RunError
from fedvpa.runs.config import RunConfig, read_config

SCHEMA_VERSION = 1

SCHEMA_LINE = "# schema_version: "
"""The first line of ``config.yaml``: a comment, so that the file can be given to ``--config`` as it is."""

RUN_FOLDERS = ("policy", "selector", "clients", "checkpoints", "figures")

RUN_FILES = ("config.yaml", "environment.json", "history.jsonl", "scores.jsonl", "metrics.json", "report.html")
"""What a run writes, and all that ``overwrite`` removes."""


def _remove(out: Path) -> None:
    """Remove an earlier run, checkpoints first: a new run that is killed early must not go on from the old one's."""
    for name in reversed(RUN_FOLDERS):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
    for name in RUN_FILES:
        (out / name).unlink(missing_ok=True)


def _check_config(out: Path, config: RunConfig, saved: dict[str, Any]) -> None:
    now, then = dict(flat(config.model_dump(mode="json"))), dict(flat(saved))
    for key in sorted(now.keys() | then.keys()):
        if now.get(key) != then.get(key):
            raise RunError(
                f"says {key} = {now.get(key)}, and the checkpoint was made with {then.get(key)}.",
                fix="Restore it, or start another run.",
                where=str(out / "config.yaml"),
            )


def _history(path: Path, rounds_done: int) -> list[dict[str, Any]]:
    """The lines of the rounds that a checkpoint holds; what a killed run wrote after them is dropped.

    Raises:
        RunError: If one of those lines is missing or broken.
    """
    lines = path.read_text(encoding="utf-8").splitlines()[:rounds_done] if path.is_file() else []
    try:
        kept: list[dict[str, Any]] = [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise RunError(f"is not JSON lines ({error}).", fix="Restore the history.", where=str(path)) from error
    if [line["round"] for line in kept] != list(range(rounds_done)):
        raise RunError(
            f"the history does not hold the {rounds_done} rounds of the checkpoint.",
            fix="Restore it, or start again with --overwrite.",
            where=str(path),
        )
    return kept


def load_run_config(out: Path) -> RunConfig:
    """The configuration of a run directory.

    Raises:
        RunError: If there is none, or of another schema version.
    """
    path = out / "config.yaml"
    if not path.is_file():
        raise RunError(
            "holds no run (config.yaml is missing).", fix="Give the folder that train wrote.", where=str(out)
        )
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    if first != f"{SCHEMA_LINE}{SCHEMA_VERSION}":
        raise RunError(
            f"has schema version {first.removeprefix(SCHEMA_LINE) if first.startswith(SCHEMA_LINE) else 'unknown'}; "
            f"this fedvpa reads {SCHEMA_VERSION}.",
            fix="Use the fedvpa that wrote it, or train again.",
            where=str(path),
        )
    return read_config(path)


def results_file(folder: Path) -> Path:
    """The file with the figures of a comparison's folder or of a run directory.

    Raises:
        RunError: If it holds neither.
    """
    for name in ("comparison.json", "metrics.json"):
        if (folder / name).is_file():
            return folder / name
    raise RunError(
        "holds neither comparison.json nor metrics.json.", fix="Give a finished run or comparison.", where=str(folder)
    )


def _checkpoint(out: Path) -> Path:
    return out / "checkpoints" / "last.safetensors"
