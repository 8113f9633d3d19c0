"""``fedvpa personalize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedvpa.cli.common import JsonOption, MapOption, OverrideArgument, columns_of, finish


def personalize(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    pairs: Annotated[Path, typer.Option(help="A file of the new user's labelled pairs.")],
    overrides: OverrideArgument = None,
    user: Annotated[str | None, typer.Option(help="The user, where the file holds pairs of several.")] = None,
    map_: MapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Infer a new user's latent from labelled pairs."""
    from fedvpa.api.personalize import personalize as run_it

    result = run_it(run, pairs, user=user, columns=columns_of(map_), overrides=overrides or [])
    shares = ", ".join(f"{share:.3f}" for share in result.responsibilities)
    text = f"{result.pairs} pairs; prototype {result.prototype}; responsibilities {shares}"
    finish(result.to_dict(), as_json, lambda: text)
