"""``fedvpa serve``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedvpa.cli.common import JsonOption, OverrideArgument, finish

if TYPE_CHECKING:
    from fedvpa.api.serve import Listening


def serve(
    run: Annotated[Path, typer.Argument(help="An aligned run directory, or a release.")],
    overrides: OverrideArgument = None,
    host: Annotated[
        str, typer.Option(help="The address to listen to; another one than this machine's own needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for one that is free.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What the model is called; by default as the folder is.")] = None,
    profiles: Annotated[Path | None, typer.Option(help="The file of users' profiles; by default the run's.")] = None,
    pool: Annotated[Path | None, typer.Option(help="A table of pairs that users can be asked about.")] = None,
    allow_z: Annotated[bool, typer.Option("--allow-z", help="A request may bring a z, or pairs, of its own.")] = False,
    max_rows: Annotated[int, typer.Option(min=1, help="Answers that are generated at once.")] = 32,
    max_waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are answered by 429.")] = 128,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 1_000_000,
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="How long requests that run have left after Ctrl-C or SIGTERM.")
    ] = 30.0,
    origins: Annotated[
        list[str] | None, typer.Option("--origin", help="Web pages of this origin may ask from a browser.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve the aligned policy behind OpenAI's API, with profiles of its users; Ctrl-C ends it."""
    from fedvpa.api.serve import serve as run_it
    from fedvpa.core.progress import say

    result = run_it(
        run,
        host=host,
        port=port,
        name=name,
        profiles=profiles,
        pool=pool,
        allow_z=allow_z,
        max_rows=max_rows,
        max_waiting=max_waiting,
        max_body=max_body,
        drain_seconds=drain_seconds,
        origins=origins or [],
        overrides=overrides or [],
        ready=lambda listening: finish(listening.to_dict(), as_json, lambda: text_of(listening)),
    )
    say(f"stopped; {result.unfinished} requests were cut off" if result.unfinished else "stopped; all was answered")


def text_of(listening: Listening) -> str:
    """What a server says when it is ready."""
    shown = ", ".join(listening.models[:8]) + (" …" if len(listening.models) > 8 else "")
    whom = "to who has a key" if listening.keys else "to this machine, without keys"
    return f"{listening.address}/v1 answers {whom}: {shown}"
