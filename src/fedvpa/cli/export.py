"""``fedvpa export``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fedvpa.cli.common import ConfigOption, JsonOption, MapOption, OverrideArgument, finish

export = typer.Typer(no_args_is_help=True, help="Write what other programs run.")


@export.command()
def flower(
    folder: Annotated[Path, typer.Argument(help="The app folder to write.")],
    overrides: OverrideArgument = None,
    config: ConfigOption = None,
    out: Annotated[Path, typer.Option(help="The run directory on the server's machine.")] = Path("runs/flower"),
    nodes: Annotated[int, typer.Option(help="Nodes that the server waits for.")] = 2,
    deadline: Annotated[float, typer.Option(help="Seconds that a round may take.")] = 600.0,
    quorum: Annotated[float, typer.Option(help="Share of a round's clients that must answer.")] = 0.5,
    method: Annotated[
        str | None, typer.Option(help="One whose clients train a language model: feddpo. By default the run's method.")
    ] = None,
    map_: MapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the app folder that ``flwr run`` accepts."""
    from fedvpa.api.export import export_flower
    from fedvpa.runs.config import column_overrides, read_config

    given = [*(overrides or []), *column_overrides(map_ or [])]
    settings = read_config(config, given)
    result = export_flower(settings, folder, out=out, nodes=nodes, deadline=deadline, quorum=quorum, method=method)
    text = f"{result.app}\nnext: flwr run {shlex.quote(str(result.app))} SUPERLINK --stream"
    finish(result.to_dict(), as_json, lambda: text)


@export.command()
def keys(
    folder: Annotated[Path, typer.Argument(help="The folder to write.")],
    host: Annotated[str, typer.Option(help="The name or address under which nodes reach the server.")],
    nodes: Annotated[
        int, typer.Option(help="Key pairs for so many nodes too, for a try on one machine; see node-key.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make a CA, and the server's key and certificate."""
    from fedvpa.api.export import export_keys

    result = export_keys(folder, host=host, nodes=nodes)
    finish(
        result.to_dict(),
        as_json,
        lambda: f"{result.keys}\nthe CA's own key, for no machine of the federation: {result.authority}",
    )


@export.command()
def node_key(
    folder: Annotated[Path, typer.Argument(help="The folder to write to.")],
    name: Annotated[str, typer.Option(help="What to call the key.")] = "node",
    as_json: JsonOption = False,
) -> None:
    """On a node: make its own key pair; the private key stays there."""
    from fedvpa.api.export import export_node_key

    result = export_node_key(folder, name=name)
    register = f"flwr supernode register {shlex.quote(result.public.name)}"
    finish(
        result.to_dict(),
        as_json,
        lambda: (
            f"{result.private}: stays on this machine\n{result.public}: send it to the operator of the server, "
            f"for: {register}\nfingerprint, to compare there (ssh-keygen -lf): {result.fingerprint}"
        ),
    )


@export.command()
def release(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write.")],
    overrides: OverrideArgument = None,
    as_json: JsonOption = False,
) -> None:
    """Write what a node needs to serve its users: selector and policy, and nothing of a user."""
    from fedvpa.api.export import export_release

    result = export_release(run, folder, overrides=overrides or [])
    lines = [str(result.release), *(f"  {name}" for name in result.files)]
    if result.left_out:
        lines.append(f"left out, since their z is made from users' own: {', '.join(result.left_out)}")
    name = shlex.quote(result.release.name)
    personal = any(file.startswith("selector/") for file in result.files)
    on_node = f"personalize {name} --pairs FILE" if personal else f"generate {name} --prompt TEXT"
    lines.append(f"next, on a node: fedvpa {on_node}")
    finish(result.to_dict(), as_json, lambda: "\n".join(lines))


@export.command()
def candidates(
    run: Annotated[Path, typer.Argument(help="A run directory with a trained selector.")],
    file: Annotated[Path, typer.Argument(help="The table to write: .jsonl or .csv.")],
    overrides: OverrideArgument = None,
    pairs: Annotated[int, typer.Option(help="Prompts, each with one pair of responses.")] = 100,
    user: Annotated[str | None, typer.Option(help="Who will label them: a column user_id.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write pairs of the base policy's own responses, for users to label what the policy says."""
    from fedvpa.api.export import export_candidates
    from fedvpa.data.question_table import FLAGS

    result = export_candidates(run, file, pairs=pairs, user=user, overrides=overrides or [])
    lines = [
        f"{result.file}: {result.pairs} pairs, first {result.disputed} on which the run's preferences disagree",
        "next: fill in the column winner (A, B or tie); the table is then read as pairs with",
        f"  {FLAGS}",
    ]
    finish(result.to_dict(), as_json, lambda: "\n".join(lines))
