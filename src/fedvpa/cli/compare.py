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
    methods: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated; by default those of the stage. Selectors besides: fedbiscuit, fedgd, finetune, "
            "lore, vpl; docs/architecture.md has a table of all."
        ),
    ] = None,
    clients: Annotated[
        str | None,
        typer.Option(help="Numbers of clients, comma-separated. By default 10,50,100; of own users, all of them."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    holdout: Annotated[Path | None, typer.Option(help="Further labelled pairs that nobody saw.")] = None,
    variants: Annotated[
        Path | None, typer.Option(help="A YAML file of named variants of the method, as rows; see configs/.")
    ] = None,
    shots: Annotated[
        str | None, typer.Option(help="Pairs that unseen users give, such as 1,2,4,8,16: each method against global.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="four-way: seen and unseen users on seen and unseen prompts.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("runs/compare"),
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes; by default one per core, or per GPU for policies.")
    ] = None,
    engine: EngineOption = None,
    map_: MapOption = None,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare methods over numbers of clients and seeds; writes comparison.json."""
    from fedvpa.api.compare import compare as run_it
    from fedvpa.runs.config import column_overrides, read_config

    sizes, counts = (
        _numbers(name, given, like)
        for name, given, like in (("clients", clients, "10,50,100"), ("shots", shots, "1,2,4"))
    )
    given = [*(overrides or []), *column_overrides(map_ or []), *(["data.strict=true"] if strict else [])]
    given += [f"engine.name={engine}"] if engine is not None else []
    result = run_it(
        read_config(config, given),
        stage=stage,  # type: ignore[arg-type]  # the verb checks it
        methods=None if methods is None else [name.strip() for name in methods.split(",") if name.strip()],
        clients=sizes,
        seeds=seeds,
        first_seed=first_seed,
        holdout=holdout,
        variants=variants,
        shots=counts,
        protocol=protocol,
        out=out,
        jobs=jobs,
    )
    from fedvpa.evaluation.report.tables import policy_table_text, table_text

    compared = result.to_dict()
    text = policy_table_text if stage == "policy" else table_text
    finish(compared, as_json, lambda: f"{text(compared, 140)}\n{out / 'comparison.json'}")


def _numbers(name: str, given: str | None, like: str) -> list[int] | None:
    """A comma-separated list of numbers; None where it is not given.

    Raises:
        ConfigError: For anything else.
    """
    from fedvpa.core.errors import ConfigError

    if given is None:
        return None
    try:
        return [int(number) for number in given.split(",")]
    except ValueError:
        raise ConfigError(f"--{name} {given!r} is not a list of numbers.", fix=f"Write {like}.") from None
