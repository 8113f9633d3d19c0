"""``fedvpa export``."""

from __future__ import annotations

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
    map_: MapOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the app folder that ``flwr run`` accepts."""
    from fedvpa.runs.config import column_overrides, read_config

    given = [*(overrides or []), *column_overrides(map_ or [])]
    settings = read_config(config, given)
    from fedvpa.deployment.app import export_flower

    found = export_flower(settings, folder, out=out, nodes=nodes, deadline=deadline, quorum=quorum)
    finish(found, as_json, lambda: f"{found['app']}\nnext: flwr run {found['app']} SUPERLINK --stream")


@export.command()
def keys(
    folder: Annotated[Path, typer.Argument(help="The folder to write.")],
    host: Annotated[str, typer.Option(help="The name or address under which nodes reach the server.")],
    nodes: Annotated[int, typer.Option(help="How many nodes.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Make a CA, the server's certificate, and a key pair for each node."""
    from fedvpa.engines.flower.simulation import require_flower

    require_flower()
    from fedvpa.deployment.keys import make_keys

    found = make_keys(folder, host=host, nodes=nodes)
    finish(found, as_json, lambda: found["keys"])
