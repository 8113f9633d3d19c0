"""``fedvpa generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedvpa.cli.common import JsonOption, OverrideArgument, check_run, finish


def generate(
    run: Annotated[Path, typer.Argument(help="An aligned run directory.")],
    prompt: Annotated[list[str], typer.Option(help="What to answer; may be given several times.")],
    overrides: OverrideArgument = None,
    preference: Annotated[
        str | None, typer.Option(help="A group, a user's id, @pairs.jsonl, or 0 to 1 between two groups.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 for greedy decoding.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0, max=1)] = 1.0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Answer prompts with the aligned policy under a preference."""
    check_run(run)
    from fedvpa.api.generate import generate as run_it

    found = run_it(
        run,
        prompt,
        preference,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
        overrides=overrides or [],
    )
    finish(found, as_json, lambda: "\n\n".join(answer["response"] for answer in found["answers"]))
