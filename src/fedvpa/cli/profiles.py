"""``fedvpa profiles``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedvpa.cli.common import JsonOption, MapOption, OverrideArgument, columns_of, finish

if TYPE_CHECKING:
    from fedvpa.serving.profiles import Profile, Profiles

profiles = typer.Typer(
    no_args_is_help=True, help="The users that a run serves, kept with the pairs that they labelled."
)
"""Its verbs join it in :mod:`fedvpa.cli.main`, which makes them interruptible."""

NameArgument = Annotated[str, typer.Argument(help="The profile.")]
PairsOption = Annotated[Path, typer.Option(help="A file of the user's labelled pairs; ties count.")]
UserOption = Annotated[str | None, typer.Option(help="The user, where the file holds pairs of several.")]


@profiles.callback()
def _of_run(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="The run directory, or a release.")],
    store: Annotated[Path | None, typer.Option(help="The file of profiles, where it is not in the run.")] = None,
) -> None:
    context.obj = (run, store)


def _open(context: typer.Context, overrides: list[str] | None, pool: Path | None = None) -> Profiles:
    from fedvpa.api.profiles import profiles as open_them

    run, store = context.obj
    return open_them(run, store=store, pool=pool, overrides=overrides or [])


def _line(found: Profile) -> str:
    shares = ", ".join(f"{share:.3f}" for share in found.responsibilities)
    ties = f" ({found.ties} ties)" if found.ties else ""
    return f"{found.name}: {found.pairs} pairs{ties}; prototype {found.prototype}; responsibilities {shares}"


def list_(context: typer.Context, overrides: OverrideArgument = None, as_json: JsonOption = False) -> None:
    """Name all profiles."""
    with _open(context, overrides) as kept:
        names = kept.names()
    finish({"profiles": names}, as_json, lambda: "\n".join(names) if names else "no profiles")


def show(
    context: typer.Context, name: NameArgument, overrides: OverrideArgument = None, as_json: JsonOption = False
) -> None:
    """Show what is known of a user."""
    with _open(context, overrides) as kept:
        found = kept.get(name)
    finish(found.to_dict(), as_json, lambda: f"{_line(found)}\ncreated {found.created}; updated {found.updated}")


def create(
    context: typer.Context,
    name: NameArgument,
    overrides: OverrideArgument = None,
    pairs: Annotated[Path | None, typer.Option(help="A file of the user's labelled pairs; ties count.")] = None,
    user: UserOption = None,
    map_: MapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a profile; without pairs it is what is known of anybody."""
    from fedvpa.api.profiles import pairs_of_file

    table: Any = () if pairs is None else pairs_of_file(context.obj[0], pairs, user=user, columns=columns_of(map_))
    with _open(context, overrides) as kept:
        found = kept.create(name, table)
    finish(found.to_dict(), as_json, lambda: _line(found))


def add(
    context: typer.Context,
    name: NameArgument,
    pairs: PairsOption,
    overrides: OverrideArgument = None,
    user: UserOption = None,
    map_: MapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add labelled pairs to a profile and infer it again."""
    from fedvpa.api.profiles import pairs_of_file

    table = pairs_of_file(context.obj[0], pairs, user=user, columns=columns_of(map_))
    with _open(context, overrides) as kept:
        found = kept.add(name, table)
    finish(found.to_dict(), as_json, lambda: _line(found))


def export(context: typer.Context, name: NameArgument, overrides: OverrideArgument = None) -> None:
    """Print all that is kept of a user, as one JSON object."""
    with _open(context, overrides) as kept:
        found = kept.export(name)
    finish(found, False, lambda: json.dumps(found, ensure_ascii=False, indent=2))


def delete(
    context: typer.Context, name: NameArgument, overrides: OverrideArgument = None, as_json: JsonOption = False
) -> None:
    """Delete a profile with its pairs, so that no byte of it is left in the file."""
    with _open(context, overrides) as kept:
        kept.delete(name)
    finish({"deleted": name}, as_json, lambda: f"{name}: deleted")


def next_(
    context: typer.Context,
    overrides: OverrideArgument = None,
    name: Annotated[str | None, typer.Option(help="The profile; without, somebody of whom nothing is known.")] = None,
    pool: Annotated[Path | None, typer.Option(help="A table of pairs that can be asked.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the pair whose label is expected to say most about a user."""
    with _open(context, overrides, pool) as kept:
        found = kept.next(name)
    if found is None:
        finish({"question": None}, as_json, lambda: "all pairs were asked")
        return
    finish({"question": found.to_dict()}, as_json, lambda: str(found))
