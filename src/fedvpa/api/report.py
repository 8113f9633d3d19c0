"""``fedvpa report``: figures and one self-contained page, from a run directory or a comparison."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from shlex import quote
from typing import Any

from fedvpa.core.errors import RunError
from fedvpa.core.files import user_path
from fedvpa.runs.folder import RunFolder


@dataclass(frozen=True)
class ReportResult:
    """A written report.

    Attributes:
        page: ``report.html``; the figures lie in ``figures/`` beside it.
    """

    page: Path

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"report": str(self.page)}


def report(folder: str | PathLike[str]) -> ReportResult:
    """Write ``report.html`` and ``figures/`` into a run directory or a comparison's folder.

    Raises:
        RunError: If it holds neither ``metrics.json`` nor ``comparison.json``.
    """
    place = user_path(folder)
    path = next((place / name for name in ("comparison.json", "metrics.json") if (place / name).is_file()), None)
    if path is None:
        raise RunError("holds neither comparison.json nor metrics.json.", fix=_next_step(place), where=str(folder))
    from fedvpa.evaluation.report.build import accuracy_figures, history_figures, policy_figures, write_report

    compared = json.loads(path.read_text(encoding="utf-8"))
    figures = accuracy_figures(compared) | policy_figures(compared) | history_figures(place)
    command = f"fedvpa report {quote(str(folder))}"
    return ReportResult(write_report(place, f"fedvpa: {place.name}", command, compared, figures))


def _next_step(place: Path) -> str:
    """What to do about a folder that has no result yet."""
    if (place / "cells").is_dir():
        return f"Finish the comparison: give fedvpa compare --out {quote(str(place))} again, with the same settings."
    if RunFolder(place).checkpoint.is_file():
        return f"Finish its training: fedvpa train --resume {quote(str(place))}"
    return "Give a finished run or comparison."
