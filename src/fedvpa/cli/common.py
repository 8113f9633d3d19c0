"""What the verbs share: options, output, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fedvpa.core.errors import ConfigError, FedvpaError, StorageError
from fedvpa.core.progress import speaks
from fedvpa.core.rendezvous import first_to_speak

ConfigOption = Annotated[Path | None, typer.Option("--config", help="A YAML file; see configs/.")]
MapOption = Annotated[
    list[str] | None, typer.Option("--map", help="Column names, such as user_id=worker; winner=COLUMN for A, B, tie.")
]
StrictOption = Annotated[bool, typer.Option("--strict", help="A row that cannot be used is an error, not a skip.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
EngineOption = Annotated[
    str | None, typer.Option("--engine", help="vectorised, loop or flower; the same as engine.name=NAME.")
]
OverrideArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Such as server.rounds=50.")
]


def columns_of(maps: Sequence[str] | None) -> dict[str, str]:
    """``--map user_id=worker`` of a verb that reads a file of new pairs: our name of a column → its name there.

    Raises:
        ConfigError: For an entry without ``=``.
    """
    found = {}
    for entry in maps or ():
        ours, equals, theirs = entry.partition("=")
        if not (ours and equals and (theirs or ours == "winner")):
            raise ConfigError(f"--map {entry} names no column.", fix="Write --map user_id=COLUMN.")
        found[ours] = theirs
    return found


def finish(result: Any, as_json: bool, text: Callable[[], str]) -> None:
    """Print a result on stdout."""
    if not speaks():
        return
    try:
        print(json.dumps(result, allow_nan=False) if as_json else text(), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        fix = "Send it somewhere else; what was trained or made stands in its folder."
        raise StorageError("the output", error.strerror or str(error), fix=fix) from error


def complain(error: FedvpaError | OSError) -> int:
    """One message on stderr, of several processes by the first that comes here; the exit code."""
    if first_to_speak():
        print(f"fedvpa: {error}", file=sys.stderr)
    return error.exit_code if isinstance(error, FedvpaError) else 1
