"""``fedvpa audit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedvpa.cli.common import JsonOption, finish

if TYPE_CHECKING:
    from fedvpa.api.audit import AuditResult


def audit(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    rounds: Annotated[int | None, typer.Option(help="Train at most so many rounds again to record messages.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Attack a finished run: guess canaries, users' groups and who trained; beside what the run claims."""
    from fedvpa.api.audit import audit as run_it

    result = run_it(run, rounds=rounds)
    finish(result.to_dict(), as_json, lambda: text_of(result))


def text_of(result: AuditResult) -> str:
    """The audit in lines."""
    from fedvpa.evaluation.report.audit_table import audit_rows

    rows = audit_rows(result.to_dict())
    width = max(len(name) for name, _ in rows)
    lines = [f"{result.method}, {result.users:,} users, {result.rounds} rounds trained again"]
    return "\n".join([*lines, *(f"{name:<{width}}  {value}" for name, value in rows), *result.notes])
