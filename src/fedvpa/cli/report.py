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
    from fedvpa.api.report import report as run_it

    result = run_it(folder)
    finish(result.to_dict(), as_json, lambda: str(result.page))
