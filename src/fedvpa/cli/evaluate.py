"""``fedvpa evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedvpa.cli.common import JsonOption, OverrideArgument, check_run, finish


def evaluate(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    pairs: Annotated[Path, typer.Option(help="New labelled pairs, JSONL or Parquet, with groups.")],
    group_column: Annotated[str | None, typer.Option(help="The column of groups.")] = None,
    overrides: OverrideArgument = None,
    as_json: JsonOption = False,
) -> None:
    """Score a trained run on new pairs: every client on those of its own group."""
    check_run(run, overrides, pairs)
    from fedvpa.api.evaluate import evaluate as run_it
    from fedvpa.evaluation.report.tables import worded

    found = run_it(run, pairs, group_column=group_column, overrides=overrides or [])
    finish(found, as_json, lambda: f"accuracy {worded(found['accuracy'], found['ci95'])} on {found['pairs']} pairs")
