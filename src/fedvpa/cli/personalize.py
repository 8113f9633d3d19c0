"""``fedvpa personalize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedvpa.cli.common import JsonOption, OverrideArgument, check_run, finish


def personalize(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    pairs: Annotated[Path, typer.Option(help="The new user's labelled pairs, JSONL or Parquet.")],
    overrides: OverrideArgument = None,
    user: Annotated[str | None, typer.Option(help="The user, where the file holds pairs of several.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Infer a new user's latent from labelled pairs."""
    check_run(run, overrides, pairs)
    from fedvpa.api.personalize import personalize as run_it

    found = run_it(run, pairs, user=user, overrides=overrides or [])
    shares = ", ".join(f"{share:.3f}" for share in found["responsibilities"])
    text = f"{found['pairs']} pairs; prototype {found['prototype']}; responsibilities {shares}"
    finish(found, as_json, lambda: text)
