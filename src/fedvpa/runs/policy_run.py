"""A policy's training in a run directory: history, checkpoints, signals; resumable bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

from accelerate.utils import wait_for_everyone
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from fedvpa.alignment.jobs import Work, title
from fedvpa.alignment.setup import refreshed
from fedvpa.core.errors import RunError
from fedvpa.core.files import write_text
from fedvpa.core.progress import say, track
from fedvpa.core.signals import Interrupted, stopping
from fedvpa.core.tensors import write_tensors
from fedvpa.runs.card import card

SCHEMA_VERSION = 2

WHAT = {
    "policy": "other settings of policy.*",
    "method": "another method",
    "seed": "another seed",
    "selector": "another selector",
    "data": "other pairs",
}
"""What going on needs to find again, and how its change is said."""


def checkpoints(run: Path) -> list[Path]:
    """All checkpoints of a run's policies."""
    return sorted((run / "checkpoints").glob("policy*.safetensors"))


def remove_policy(run: Path) -> None:
    """Remove an earlier policy, checkpoints first: one that is killed early must not go on from the old one's."""
    for path in [*checkpoints(run), *(run / "checkpoints").glob(f"{refreshed('')}*")]:
        path.unlink()
    if (run / "policy").is_dir():
        shutil.rmtree(run / "policy")


def carry_out(run: Path, work: Work, selector: str, again: str, *, resume: bool) -> dict[str, Any]:
    """Train a policy and leave it in ``run/policy``.

    Args:
        run: The run directory.
        work: What to train.
        selector: A hash of the selector that it learns from; empty for none.
        again: The command that goes on.
        resume: Go on from the checkpoint, if there is one.

    Returns:
        What ``metrics.json`` says about this policy.

    Raises:
        RunError: If the checkpoint is of another run.
        Interrupted: After SIGINT or SIGTERM; a checkpoint was saved.
    """
    ending = f"-{work.name}" if work.name else ""
    checkpoint, log_path = (
        run / "checkpoints" / f"policy{ending}.safetensors",
        run / "policy" / f"history{ending}.jsonl",
    )
    meta = {
        "schema_version": str(SCHEMA_VERSION),
        "policy": work.config.policy.model_dump_json(),
        "method": work.method,
        "seed": str(work.config.seed),
        "selector": selector,
        "data": work.prepared.fingerprint(),
    }
    if resume and checkpoint.is_file():
        _load(work, checkpoint, meta)
        say(f"resuming at {work.unit} {work.done}")
    lines = log_path.read_text(encoding="utf-8").splitlines()[: work.done] if log_path.is_file() else []
    if work.is_main:
        write_text(log_path, "".join(f"{line}\n" for line in lines))
    wait_for_everyone()
    seconds = sum(json.loads(line)["seconds"] for line in lines)
    todo = work.lines()
    with closing(todo), stopping() as stop, log_path.open("a", encoding="utf-8") as log:
        for line in track(todo, title(work), work.total - work.done, unit=f"{work.unit}s"):
            seconds += line["seconds"]
            if work.is_main:
                log.write(json.dumps(line) + "\n")
                log.flush()
            stopped = stop()
            if work.is_main and (work.due or stopped):
                _save(work, checkpoint, meta)
            if stopped:
                raise Interrupted(
                    f"{signal.Signals(stopped).name}: stopped after {work.unit} {work.done} of {work.total}; "
                    f"go on with: {again}",
                    stopped,
                )
    if work.is_main:
        _save(work, checkpoint, meta)
    policy, notes = work.finish()
    if work.is_main:
        folder = run / "policy" / work.name
        settings = work.config.policy.model_dump(mode="json")
        own = {"method": work.method, "preference": work.name, "settings": settings}
        policy.save_pretrained(folder, {**own, **notes})
        write_text(folder / "README.md", card(work, policy))
    return {**notes, f"{work.unit}s": work.total, "seconds": seconds}


def _save(work: Work, path: Path, meta: dict[str, str]) -> None:
    tensors, notes = work.state()
    write_tensors(path, tensors, meta | notes)


def _load(work: Work, path: Path, meta: dict[str, str]) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            saved = file.metadata() or {}
    except SafetensorError as error:
        raise RunError(
            f"is damaged ({error}).", fix="Restore it, or align again with --overwrite.", where=str(path)
        ) from error
    if saved.get("schema_version") != meta["schema_version"]:
        raise RunError(
            f"has schema version {saved.get('schema_version')}; this fedvpa reads {SCHEMA_VERSION}.",
            fix="Align again with --overwrite.",
            where=str(path),
        )
    differing = [said for name, said in WHAT.items() if saved.get(name) != meta[name]]
    if differing:
        raise RunError(
            f"was made with {' and '.join(differing)}, so going on would mix two runs.",
            fix="Restore what it was made with, or start again with --overwrite.",
            where=str(path),
        )
    work.load_state(load_file(path), {name: value for name, value in saved.items() if name not in meta})
