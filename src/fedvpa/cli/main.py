"""The entry point: ``fedvpa VERB``. Verbs import their machinery when they run, so that help is quick."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from fedvpa.cli import align, compare, demo, doctor, evaluate, export, generate, personalize, report, train
from fedvpa.cli.common import complain
from fedvpa.core.errors import FedvpaError
from fedvpa.core.version import __version__

app = typer.Typer(
    name="fedvpa",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Federated preference alignment for users who disagree. Exit codes: 0 done, 1 failed, 2 wrong input, "
    "130 and 143 stopped by Ctrl-C and SIGTERM.",
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


for verb in (demo, train, align, evaluate, compare, personalize, generate, report, doctor):
    name = verb.__name__.rpartition(".")[2]
    app.command(name)(getattr(verb, name))
app.add_typer(export.export, name="export")


def main() -> None:
    """Run the command line; set FEDVPA_DEBUG for the traceback of an error that is reported in one message."""
    try:
        app()
    except (FedvpaError, OSError) as error:
        if os.environ.get("FEDVPA_DEBUG"):
            raise
        sys.exit(complain(error))
