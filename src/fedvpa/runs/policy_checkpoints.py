"""The checkpoints of a run's policies: what a stopped ``align`` was doing, and whether going on would mix two runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from fedvpa.algorithms.firm_config import FirmConfig
from fedvpa.alignment.job import AlignmentJob
from fedvpa.core.compute import Compute, restore
from fedvpa.core.errors import RunError
from fedvpa.core.identity import Parts, differences
from fedvpa.core.options import option
from fedvpa.core.schema import check_version
from fedvpa.policy.config import PolicyConfig
from fedvpa.runs.folder import RunFolder
from fedvpa.runs.identity import CONTENT, VERSION

META = ("schema_version", "policy", "firm", "method", "identity", "compute")
"""What the header of a checkpoint holds, beside the job's own notes."""


def checkpoints(run: RunFolder) -> list[Path]:
    """All checkpoints of a run's policies."""
    return sorted(run.checkpoint.parent.glob("policy*.safetensors"))


@dataclass(frozen=True)
class Stopped:
    """What a checkpoint says about the ``align`` that left it.

    Attributes:
        path: The checkpoint.
        method: What it trains.
        settings: Stage 2 as it was asked for, defaults and overrides included.
        firm: The same of the methods that train towards several objectives; None from an earlier release.
        parts: What decides the policy.
    """

    path: Path
    method: str
    settings: PolicyConfig
    firm: FirmConfig | None
    parts: Parts


def stopped_at(run: RunFolder) -> Stopped:
    """What a stopped ``align`` was doing; computes from here on as it did, so that going on is exact.

    Raises:
        RunError: If the checkpoint is damaged, or an earlier release wrote it.
    """
    path = checkpoints(run)[0]
    header = _checked_header(path)
    restore(Compute.of(header.get("compute")), str(path))
    return Stopped(
        path,
        header["method"],
        PolicyConfig.parse(json.loads(header["policy"])),
        FirmConfig.parse(json.loads(header["firm"])) if "firm" in header else None,
        json.loads(header["identity"]),
    )


def check_same(path: Path, then: Parts, now: Parts) -> None:
    """Refuse to go on with a policy that is made from something else.

    Raises:
        RunError: Naming everything that has changed.
    """
    if changed := list(differences(then, now, CONTENT)):
        raise RunError(
            f"was made with {', '.join(changed)}, so going on would mix two runs.",
            fix=f"Restore what it was made with, or start again with {option('overwrite', 'True')}.",
            where=str(path),
        )


def go_on(job: AlignmentJob, path: Path, parts: Parts) -> None:
    """Put a job where its checkpoint stands.

    Args:
        job: What is trained.
        path: The checkpoint.
        parts: What the job is made from now.

    Raises:
        RunError: If the checkpoint is damaged, of an earlier release, or of other inputs.
    """
    saved = _checked_header(path)
    check_same(path, json.loads(saved["identity"]), parts)
    job.load_state(load_file(path), {name: value for name, value in saved.items() if name not in META})


def _checked_header(path: Path) -> Mapping[str, str]:
    header = _header(path)
    check_version(
        "policy checkpoint",
        header.get("schema_version"),
        where=str(path),
        fix=f"Go on with {_writer(header)}, or align again with {option('overwrite', 'True')}.",
    )
    return header


def _writer(header: Mapping[str, str]) -> str:
    """The release that wrote a checkpoint, which opens it."""
    version = json.loads(header.get("identity", "{}")).get(VERSION)
    return f"fedvpa {version}, which wrote it" if version else "the fedvpa that wrote it"


def _header(path: Path) -> Mapping[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise RunError(
            f"is damaged ({error}).",
            fix=f"Restore it, or align again with {option('overwrite', 'True')}.",
            where=str(path),
        ) from error
