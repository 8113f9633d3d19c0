"""``fedvpa demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedvpa.cli.common import JsonOption, finish


def demo(
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    clients: Annotated[int, typer.Option(min=4, help="Number of clients that train.")] = 20,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default one per core, or per GPU for policies.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run both stages on the bundled world: seven methods, new users, two policies, figures, report.html."""
    from fedvpa.api.demo import demo as run_it

    compared = run_it(out, seeds=seeds, clients=clients, jobs=jobs).to_dict()
    from fedvpa.evaluation.report.tables import policy_table_text, table_text

    text = f"{table_text(compared, 140)}\n{policy_table_text(compared, 140)}\nreport: {out / 'report.html'}"
    finish(compared, as_json, lambda: text)
