"""``fedvpa evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedvpa.cli.common import JsonOption, OverrideArgument, finish


def evaluate(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    pairs: Annotated[Path, typer.Option(help="New labelled pairs, JSONL or Parquet, with groups.")],
    group_column: Annotated[str | None, typer.Option(help="The column of groups.")] = None,
    overrides: OverrideArgument = None,
    as_json: JsonOption = False,
) -> None:
    """Score a trained run on new pairs: every client on those of its own group."""
    from fedvpa.api.evaluate import evaluate as run_it

    result = run_it(run, pairs, group_column=group_column, overrides=overrides or [])
    from fedvpa.evaluation.report.tables import worded

    text = f"accuracy {worded(result.accuracy, result.ci95)} on {result.pairs} pairs"
    finish(result.to_dict(), as_json, lambda: text)
