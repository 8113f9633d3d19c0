"""``fedvpa train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedvpa.cli.common import ConfigOption, EngineOption, JsonOption, MapOption, OverrideArgument, StrictOption, finish

if TYPE_CHECKING:
    from fedvpa.runs.config import RunConfig


def train(
    overrides: OverrideArgument = None,
    config: ConfigOption = None,
    out: Annotated[Path, typer.Option(help="The run directory.")] = Path("runs/train"),
    resume: Annotated[Path | None, typer.Option(help="Go on with this run from its last checkpoint.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier run.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Train nothing: show users, pairs and what would be held out.")] = False,
    engine: EngineOption = None,
    map_: MapOption = None,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train one method and leave a run directory behind."""
    from fedvpa.api.train import resume as go_on
    from fedvpa.api.train import train as run
    from fedvpa.core.errors import ConfigError
    from fedvpa.runs.config import column_overrides, read_config

    given = [*(overrides or []), *column_overrides(map_ or []), *(["data.strict=true"] if strict else [])]
    given += [f"engine.name={engine}"] if engine is not None else []
    if dry_run:
        if resume is not None:
            raise ConfigError("--dry-run shows what a new run would start from, and --resume goes on.", fix="Give one.")
        _show(read_config(config, given), as_json)
        return
    if resume is not None:
        result = go_on(resume, rounds=_more_rounds(given, config))
    else:
        result = run(read_config(config, given), out, overwrite=overwrite)
    from fedvpa.evaluation.report.tables import table_text

    finish(result.to_dict(), as_json, lambda: f"{table_text(result.comparison.to_dict(), 140)}\n{result.run}")


def _show(config: RunConfig, as_json: bool) -> None:
    """What a run would start from; exit code 2 if it would be refused."""
    from fedvpa.api.dry_run import dry_run

    found = dry_run(config)
    finish(found.to_dict(), as_json, lambda: str(found))
    if found.problem:
        raise typer.Exit(2)


def _more_rounds(given: list[str], config: Path | None) -> int | None:
    """What ``--resume`` may be given: more rounds, and nothing else."""
    from fedvpa.core.errors import ConfigError
    from fedvpa.runs.config import read_config

    if config is not None or any(not entry.startswith("server.rounds=") for entry in given):
        raise ConfigError(
            "--resume goes on with the run's own configuration; only server.rounds may be larger.",
            fix="Leave out the others.",
        )
    return read_config(None, given).server.rounds if given else None
