"""``fedvpa report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedvpa.cli.common import JsonOption, finish


def report(
    folder: Annotated[Path, typer.Argument(help="A run directory, or the folder of a comparison.")],
    as_json: JsonOption = False,
) -> None:
    """Write report.html and figures."""
    from fedvpa.runs.folder import results_file

    results_file(folder)  # before the machinery of figures is imported
    from fedvpa.api.report import report as run_it

    path = run_it(folder)
    finish({"report": str(path)}, as_json, lambda: str(path))
