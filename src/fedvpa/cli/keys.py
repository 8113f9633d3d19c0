"""``fedvpa keys``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedvpa.cli.common import JsonOption, finish

if TYPE_CHECKING:
    from fedvpa.serving.keys import Keys

keys = typer.Typer(no_args_is_help=True, help="Make, list and remove the keys of a run's server.")

NameArgument = Annotated[str, typer.Argument(help="What the key is called.")]


@keys.callback()
def _of_run(
    context: typer.Context, run: Annotated[Path, typer.Argument(help="The run directory, or a release.")]
) -> None:
    context.obj = run


def _open(context: typer.Context) -> Keys:
    from fedvpa.api.keys import keys as open_them

    return open_them(context.obj)


@keys.command()
def add(
    context: typer.Context,
    name: NameArgument,
    profile: Annotated[str | None, typer.Option(help="The one profile that it may see; by default all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. It is printed once and kept nowhere; a server that runs takes it at once."""
    made = _open(context).add(name, profile)
    finish({"name": name, "profile": profile, "key": made}, as_json, lambda: made)


@keys.command("list")
def list_(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the keys and what each may see."""
    _show(_open(context), as_json)


@keys.command()
def remove(context: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Make a key worthless; a server that runs refuses it at once. Lists those that are left."""
    found = _open(context)
    found.remove(name)
    _show(found, as_json)


def _show(found: Keys, as_json: bool) -> None:
    kept = found.all()
    rows = [{"name": key.name, "profile": key.profile, "created": key.created} for key in kept]
    lines = [f"{key.name}: {key.profile or 'all profiles'}; made {key.created}" for key in kept]
    finish({"keys": rows}, as_json, lambda: "\n".join(lines or ["no keys"]))
