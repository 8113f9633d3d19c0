"""``fedvpa doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedvpa.cli.common import JsonOption, finish


def doctor(
    certificates: Annotated[Path | None, typer.Option(help="Check a folder of certificates and keys too.")] = None,
    host: Annotated[str | None, typer.Option(help="The name that the server's certificate must be valid for.")] = None,
    superlink: Annotated[str | None, typer.Option(help="HOST:PORT of a SuperLink to connect to.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print versions and check that everything needed works."""
    import yaml

    from fedvpa.api.doctor import doctor as run_it

    result = run_it(certificates=certificates, host=host, superlink=superlink)
    finish(result.to_dict(), as_json, lambda: yaml.safe_dump(result.to_dict(), sort_keys=False).rstrip())
    if not result.ok:
        raise typer.Exit(1)
