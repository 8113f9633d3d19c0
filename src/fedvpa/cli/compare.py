"""``fedvpa compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedvpa.cli.common import ConfigOption, EngineOption, JsonOption, MapOption, OverrideArgument, StrictOption, finish


def compare(
    overrides: OverrideArgument = None,
    config: ConfigOption = None,
    stage: Annotated[str, typer.Option(help="selector, or policy: both stages.")] = "selector",
    methods: Annotated[str | None, typer.Option(help="Comma-separated; by default those of the stage.")] = None,
    clients: Annotated[str, typer.Option(help="Numbers of clients, comma-separated.")] = "10,50,100",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    holdout: Annotated[Path | None, typer.Option(help="Further labelled pairs that nobody saw.")] = None,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("runs/compare"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; by default one per core.")] = None,
    engine: EngineOption = None,
    map_: MapOption = None,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare methods over numbers of clients and seeds; writes comparison.json."""
    from fedvpa.core.errors import ConfigError, nearest
    from fedvpa.runs.config import column_overrides, read_config

    try:
        sizes = [int(size) for size in clients.split(",")]
    except ValueError:
        raise ConfigError(f"--clients {clients!r} is not a list of numbers.", fix="Write 10,50,100.") from None
    given = [*(overrides or []), *column_overrides(map_ or []), *(["data.strict=true"] if strict else [])]
    given += [f"engine.name={engine}"] if engine is not None else []
    if stage not in ("selector", "policy"):
        raise ConfigError(f"--stage {stage!r} is none.", fix=nearest(stage, ("selector", "policy")))
    settings = read_config(config, given)
    settings.check_paths()
    from fedvpa.api.compare import DEFAULT_METHODS
    from fedvpa.api.compare import compare as run_it
    from fedvpa.evaluation.report.tables import policy_table_text, table_text
    from fedvpa.experiments.policy_cells import DEFAULT_POLICY_METHODS, compare_policies

    defaults = DEFAULT_POLICY_METHODS if stage == "policy" else DEFAULT_METHODS
    names = [name.strip() for name in methods.split(",") if name.strip()] if methods is not None else list(defaults)
    if stage == "policy":
        if holdout is not None:
            raise ConfigError("--holdout is of the selector stage.", fix="Leave it out, or give --stage selector.")
        compared = compare_policies(
            settings, methods=names, clients=sizes, seeds=seeds, first_seed=first_seed, out=out, jobs=jobs
        )
        finish(compared, as_json, lambda: f"{policy_table_text(compared, 140)}\n{out / 'comparison.json'}")
        return
    compared = run_it(
        settings,
        methods=names,
        clients=sizes,
        seeds=seeds,
        first_seed=first_seed,
        holdout=holdout,
        out=out,
        jobs=jobs,
    )
    finish(compared, as_json, lambda: f"{table_text(compared, 140)}\n{out / 'comparison.json'}")
