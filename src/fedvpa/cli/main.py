"""The entry point: ``fedvpa VERB``. Verbs import their machinery when they run, so that help is quick."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Any

import typer

from fedvpa.cli import (
    align,
    audit,
    compare,
    demo,
    doctor,
    evaluate,
    export_models,
    forget,
    generate,
    judge,
    keys,
    personalize,
    privacy,
    profiles,
    report,
    serve,
    simulate,
    train,
)
from fedvpa.cli.common import complain
from fedvpa.core import processes, rendezvous
from fedvpa.core.errors import ConfigError, FedvpaError
from fedvpa.core.options import flags
from fedvpa.core.signals import interrupting
from fedvpa.core.streams import widen
from fedvpa.core.version import __version__

TOGETHER = {"train": "", "align": "", "simulate": "", "evaluate": "policy"}
"""The verbs that several processes do together, as ``torchrun`` and ``accelerate launch`` start them, and the flag
without which they do not."""

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


def interruptible(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, which Ctrl-C ends in one message wherever it is; a verb that knows more says so itself."""

    @functools.wraps(verb)
    def guarded(*args: Any, **options: Any) -> None:
        kept = "stopped. Features and samples computed so far are kept, and the same command goes on."
        with interrupting(kept), _joined(verb.__name__, options):
            verb(*args, **options)

    return guarded


def _joined(verb: str, options: Mapping[str, Any]) -> AbstractContextManager[None]:
    """The processes that a launcher started are connected before the verb begins, so that all end in one message.

    Raises:
        ConfigError: If the verb does its work in one process.
    """
    flag = TOGETHER.get(verb)
    if rendezvous.launched() and (flag is None or (flag and not options.get(flag))):
        shared = [f"{name} --{needed}" if needed else name for name, needed in TOGETHER.items()]
        raise ConfigError(
            f"fedvpa {verb} was started in {os.environ['WORLD_SIZE']} processes and does its work in one.",
            fix=f"Start it without a launcher; {', '.join(shared)} share their work out to several.",
        )
    return processes.joined()


for module in (
    demo,
    simulate,
    train,
    align,
    evaluate,
    compare,
    personalize,
    generate,
    serve,
    judge,
    audit,
    forget,
    report,
    doctor,
):
    name = module.__name__.rpartition(".")[2]
    app.command(name)(interruptible(getattr(module, name)))
app.add_typer(export_models.export, name="export")
app.add_typer(keys.keys, name="keys")
privacy.privacy.command("plan")(interruptible(privacy.plan))
app.add_typer(privacy.privacy, name="privacy")
for action in (profiles.list_, profiles.show, profiles.create, profiles.add, profiles.export, profiles.delete):
    profiles.profiles.command(action.__name__.rstrip("_"))(interruptible(action))
profiles.profiles.command("next")(interruptible(profiles.next_))
app.add_typer(profiles.profiles, name="profiles")


def main() -> None:
    """Run the command line; set FEDVPA_DEBUG for the traceback of an error that is reported in one message."""
    widen()
    try:
        with flags():
            app()
    except (FedvpaError, OSError) as error:
        if os.environ.get("FEDVPA_DEBUG"):
            raise
        sys.exit(complain(error))
    except Exception:
        if rendezvous.first_to_speak():
            raise
        sys.exit(1)
