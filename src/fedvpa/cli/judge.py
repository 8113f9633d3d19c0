"""``fedvpa judge``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedvpa.cli.common import ConfigOption, JsonOption, MapOption, OverrideArgument, StrictOption, finish
from fedvpa.core.errors import ConfigError

if TYPE_CHECKING:
    from fedvpa.api.judge import JudgeResult


def judge(
    overrides: OverrideArgument = None,
    config: ConfigOption = None,
    model: Annotated[
        str, typer.Option(help="The language model that reads responses: a folder or a hub id.", show_default=False)
    ] = "",
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("judge"),
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier judge.")] = False,
    map_: MapOption = None,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a judge, one reward for each preference, on pairs that no method sees (data.reserved)."""
    from fedvpa.api.judge import judge as train_it
    from fedvpa.runs.config import column_overrides, read_config

    for override in overrides or []:
        if not override.startswith("data."):
            raise ConfigError(
                f"{override!r} decides nothing of a judge, which reads the section 'data' alone.", fix="Leave it out."
            )
    if not model:
        raise ConfigError(
            "No language model is named that could read the responses.",
            fix="Give --model PATH, better another one than the selectors read.",
        )
    given = [*(overrides or []), *column_overrides(map_ or []), *(["data.strict=true"] if strict else [])]
    result = train_it(read_config(config, given), model, out, overwrite=overwrite)
    finish(result.to_dict(), as_json, lambda: _text(result))


def _text(result: JudgeResult) -> str:
    from fedvpa.evaluation.report.tables import worded

    lines = [
        f"{name}: {worded(found.value, found.ci95)} of {found.pairs} held-out pairs in the right order; "
        f"the longer response is preferred in {found.longer:.3f}"
        for name, found in result.accuracy.items()
    ]
    return "\n".join([*lines, str(result.out)])
