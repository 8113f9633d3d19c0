"""``fedvpa doctor``."""

from __future__ import annotations

import typer

from fedvpa.cli.common import JsonOption, finish


def doctor(as_json: JsonOption = False) -> None:
    """Print versions and check that everything needed works."""
    import yaml

    from fedvpa.api.doctor import doctor as run_it

    found = run_it()
    finish(found, as_json, lambda: yaml.safe_dump(found, sort_keys=False).rstrip())
    if not found["ok"]:
        raise typer.Exit(1)
