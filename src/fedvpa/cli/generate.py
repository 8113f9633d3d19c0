"""``fedvpa generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedvpa.cli.common import JsonOption, MapOption, OverrideArgument, columns_of, finish


def generate(
    run: Annotated[Path, typer.Argument(help="An aligned run directory.")],
    overrides: OverrideArgument = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What to answer; may be given several times.")] = None,
    messages: Annotated[
        Path | None, typer.Option(help="A JSON or JSONL file of further prompts: lists of messages, or strings.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="The text of a system turn in front of each prompt.")] = None,
    preference: Annotated[
        str | None,
        typer.Option(
            help="A group, a user's id, profile:NAME, @pairs.jsonl, a prototype's number, or one between two, as 0.3."
        ),
    ] = None,
    user: Annotated[str | None, typer.Option(help="The user, where @pairs.jsonl holds pairs of several.")] = None,
    map_: MapOption = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 for greedy decoding.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0, max=1)] = 1.0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Answer prompts with the aligned policy under a preference."""
    from fedvpa.api.generate import generate as run_it

    result = run_it(
        run,
        prompt or [],
        preference,
        messages=messages,
        system=system,
        user=user,
        columns=columns_of(map_),
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
        overrides=overrides or [],
    )
    finish(result.to_dict(), as_json, lambda: "\n\n".join(answer.response for answer in result.answers))
