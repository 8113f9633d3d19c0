"""``fedvpa export merged | adapters | baked | hub``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedvpa.cli.common import JsonOption, MapOption, OverrideArgument, columns_of, finish
from fedvpa.cli.export import export

if TYPE_CHECKING:
    from fedvpa.api.export_models import ExportedPolicy

RunArgument = Annotated[Path, typer.Argument(help="An aligned run directory.")]
FolderArgument = Annotated[Path, typer.Argument(help="The folder to write.")]
PreferencesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--preferences",
        "--preference",
        help="Groups, users' ids, @pairs.jsonl, prototypes' numbers or between two, as 0.3; with commas between them.",
    ),
]
UserOption = Annotated[str | None, typer.Option(help="The user, where @pairs.jsonl holds pairs of several.")]


@export.command()
def merged(
    run: RunArgument,
    folder: FolderArgument,
    overrides: OverrideArgument = None,
    preferences: PreferencesOption = None,
    user: UserOption = None,
    map_: MapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a plain Hugging Face model, for each preference where z is in the weights."""
    from fedvpa.api.export_models import export_merged

    _show(
        export_merged(run, folder, _split(preferences), user=user, columns=columns_of(map_), overrides=overrides or []),
        as_json,
    )


@export.command()
def adapters(
    run: RunArgument,
    folder: FolderArgument,
    overrides: OverrideArgument = None,
    preferences: PreferencesOption = None,
    user: UserOption = None,
    map_: MapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a PEFT adapter for each preference, which servers load beside one base."""
    from fedvpa.api.export_models import export_adapters

    _show(
        export_adapters(
            run, folder, _split(preferences), user=user, columns=columns_of(map_), overrides=overrides or []
        ),
        as_json,
    )


@export.command()
def baked(
    run: RunArgument,
    folder: FolderArgument,
    overrides: OverrideArgument = None,
    preferences: PreferencesOption = None,
    user: UserOption = None,
    map_: MapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a plain model with the soft prefix of each preference in its vocabulary (policies up to 0.4)."""
    from fedvpa.api.export_models import export_baked

    _show(
        export_baked(run, folder, _split(preferences), user=user, columns=columns_of(map_), overrides=overrides or []),
        as_json,
    )


@export.command()
def hub(
    run: RunArgument,
    folder: FolderArgument,
    overrides: OverrideArgument = None,
    push: Annotated[
        str | None, typer.Option(help="A repository of the hub to upload it to, such as me/policy.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody read a new repository.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write adapter, tokenizer and card for the Hugging Face hub, and nothing of a user."""
    from fedvpa.api.export_models import export_hub

    result = export_hub(run, folder, push=push, public=public, overrides=overrides or [])
    lines = [str(result.folder), *(f"  {name}" for name in result.files)]
    if result.left_out:
        lines.append(f"left out, since their z is made from users' own: {', '.join(result.left_out)}")
    lines.append(f"measured results on the card: {result.results}")
    lines += [result.url] if result.url else []
    finish(result.to_dict(), as_json, lambda: "\n".join(lines))


def _split(preferences: Sequence[str] | None) -> list[str]:
    """What stands between commas, of one flag or several."""
    return [part for given in preferences or () for part in given.split(",") if part]


def _show(result: ExportedPolicy, as_json: bool) -> None:
    lines = [str(result.folder), *(f"  {name}: {place}" for name, place in result.profiles.items())]
    lines.append(f"how servers take it: {result.folder / 'README.md'}")
    finish(result.to_dict(), as_json, lambda: "\n".join(lines))
