"""``fedvpa forget``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedvpa.cli.common import JsonOption, finish

if TYPE_CHECKING:
    from fedvpa.api.forget import ForgetResult


def forget(
    user: Annotated[str, typer.Option(help="The user's id.")],
    run: Annotated[Path | None, typer.Argument(help="The run directory.")] = None,
    state: Annotated[Path | None, typer.Option(help="In place of RUN: the state-path of a node.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take all that a run directory keeps of one user out of it; the run serves the others as before."""
    from fedvpa.api.forget import forget as run_it

    result = run_it(run, user=user, state=state, dry_run=dry_run)
    finish(result.to_dict(), as_json, lambda: text_of(result))


def text_of(result: ForgetResult) -> str:
    """File by file what went, and what stays."""
    head = f"{'would forget' if result.dry_run else 'forgot'} {result.user!r} in {result.place}"
    width = max(map(len, result.removed), default=0)
    lines = [f"  {file:<{width}}  {what}" for file, what in result.removed.items()]
    return "\n".join([head, *lines, *result.kept])
