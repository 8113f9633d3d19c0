"""``fedvpa evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedvpa.cli.common import JsonOption, MapOption, OverrideArgument, columns_of, finish
from fedvpa.core.errors import ConfigError

if TYPE_CHECKING:
    from fedvpa.api.evaluate import EvaluateResult


def evaluate(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    pairs: Annotated[Path | None, typer.Option(help="A file of new labelled pairs.")] = None,
    policy: Annotated[
        bool, typer.Option("--policy", help="Judge the run's policy against its base policy instead.")
    ] = False,
    language: Annotated[
        Path | None, typer.Option(help="Texts, one a line: perplexity under the run's policy and its base policy.")
    ] = None,
    map_: MapOption = None,
    group_column: Annotated[str | None, typer.Option(help="The same as --map group=COLUMN.")] = None,
    by: Annotated[
        str | None,
        typer.Option(help="user: with the z of who labelled a pair; group: every client on the pairs of its group."),
    ] = None,
    overrides: OverrideArgument = None,
    as_json: JsonOption = False,
) -> None:
    """Score a trained run on new pairs, each with the z of its user or of its group's clients. Or judge its policy."""
    if language is not None:
        told = {"--policy": policy or None, "--pairs": pairs, "--group-column": group_column, "--map": map_, "--by": by}
        _read_language(run, language, overrides or [], as_json, told)
        return
    if policy:
        unread = {"--pairs": pairs, "--group-column": group_column, "--map": map_, "--by": by}
        _judge(run, overrides or [], as_json, unread)
        return
    if pairs is None:
        raise ConfigError(
            "There is nothing to evaluate on.",
            fix="Give --pairs FILE for the run's selector, --policy to judge the run's policy, or --language FILE for "
            "what alignment cost its language.",
        )
    from fedvpa.api.evaluate import evaluate as run_it

    result = run_it(
        run,
        pairs,
        columns=columns_of(map_),
        group_column=group_column,
        by=by,  # type: ignore[arg-type]  # checked by the verb
        overrides=overrides or [],
    )
    finish(result.to_dict(), as_json, lambda: _text(result))


def _text(result: EvaluateResult) -> str:
    from fedvpa.evaluation.report.cells import worded

    lines = [f"accuracy {worded(result.accuracy, result.ci95)} on {result.pairs} pairs of {_whom(result)}"]
    if result.known and result.new:
        for name, part in (("users of the run", result.known), ("new users", result.new)):
            lines.append(f"  {name}: {worded(part.value, part.interval)}")
    lines += [f"  {name}: {worded(part.value, part.interval)}" for name, part in result.groups.items()]
    return "\n".join(lines)


def _whom(result: EvaluateResult) -> str:
    if result.by == "group":
        return f"the groups of {result.users} clients"
    context = f", whose z comes from {result.context_pairs} other pairs" if result.context_pairs else ""
    return f"{result.users} user{'' if result.users == 1 else 's'}{context}"


def _read_language(
    run: Path, texts: Path, overrides: Sequence[str], as_json: bool, unread: Mapping[str, object]
) -> None:
    """``fedvpa evaluate RUN --language FILE``."""
    if given := [name for name, value in unread.items() if value is not None]:
        raise ConfigError(
            f"{given[0]} and --language ask for two evaluations.", fix=f"Leave {given[0]} or --language out."
        )
    from fedvpa.api.evaluate_language import evaluate_language
    from fedvpa.evaluation.perplexity import language_lines

    found = evaluate_language(run, texts, overrides=overrides)
    finish(
        found.to_dict(),
        as_json,
        lambda: "\n".join(language_lines(found.rows, found.base_perplexity, found.texts, found.tokens)),
    )


def _judge(run: Path, overrides: Sequence[str], as_json: bool, unread: Mapping[str, object]) -> None:
    """``fedvpa evaluate RUN --policy``."""
    if given := [name for name, value in unread.items() if value is not None]:
        raise ConfigError(f"{given[0]} says nothing about a policy.", fix=f"Leave {given[0]} or --policy out.")
    from fedvpa.api.evaluate_policy import evaluate_policy
    from fedvpa.evaluation.report.tables import policy_table_text

    compared = evaluate_policy(run, overrides=overrides).to_dict()
    notes = [*compared["policy_notes"], str(run / "policy" / "metrics.json")]
    finish(compared, as_json, lambda: "\n".join([policy_table_text(compared, 140), *notes]))
