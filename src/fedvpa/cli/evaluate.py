"""``fedvpa evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedvpa.cli.common import JsonOption, OverrideArgument, finish
from fedvpa.core.errors import ConfigError


def evaluate(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    pairs: Annotated[Path | None, typer.Option(help="New labelled pairs, JSONL or Parquet, with groups.")] = None,
    policy: Annotated[
        bool, typer.Option("--policy", help="Judge the run's policy against its base policy instead.")
    ] = False,
    group_column: Annotated[str | None, typer.Option(help="The column of groups.")] = None,
    overrides: OverrideArgument = None,
    as_json: JsonOption = False,
) -> None:
    """Score a trained run on new pairs: every client on those of its own group. Or judge its policy."""
    if policy:
        _judge(run, overrides or [], as_json, {"--pairs": pairs, "--group-column": group_column})
        return
    if pairs is None:
        raise ConfigError(
            "There is nothing to evaluate on.",
            fix="Give --pairs FILE for the run's selector, or --policy to judge the run's policy.",
        )
    from fedvpa.api.evaluate import evaluate as run_it

    result = run_it(run, pairs, group_column=group_column, overrides=overrides or [])
    from fedvpa.evaluation.report.tables import worded

    text = f"accuracy {worded(result.accuracy, result.ci95)} on {result.pairs} pairs"
    finish(result.to_dict(), as_json, lambda: text)


def _judge(run: Path, overrides: Sequence[str], as_json: bool, unread: Mapping[str, object]) -> None:
    """``fedvpa evaluate RUN --policy``."""
    if given := [name for name, value in unread.items() if value is not None]:
        raise ConfigError(f"{given[0]} says nothing about a policy.", fix=f"Leave {given[0]} or --policy out.")
    from fedvpa.api.evaluate_policy import evaluate_policy
    from fedvpa.evaluation.report.tables import policy_table_text

    compared = evaluate_policy(run, overrides=overrides).to_dict()
    notes = [*compared["policy_notes"], str(run / "policy" / "metrics.json")]
    finish(compared, as_json, lambda: "\n".join([policy_table_text(compared, 140), *notes]))
