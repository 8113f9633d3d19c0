"""``fedvpa personalize``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fedvpa.cli.common import JsonOption, MapOption, OverrideArgument, columns_of, finish
from fedvpa.core.errors import ConfigError
from fedvpa.core.signals import interrupting


def personalize(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    overrides: OverrideArgument = None,
    pairs: Annotated[Path | None, typer.Option(help="A file of the new user's labelled pairs.")] = None,
    user: Annotated[str | None, typer.Option(help="The user, where the file holds pairs of several.")] = None,
    map_: MapOption = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Ask instead, each time about the pair that says most.")
    ] = False,
    profile: Annotated[str | None, typer.Option(help="With --interactive: keep the answers in this profile.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --interactive: keep them in this file of pairs.")] = None,
    pool: Annotated[Path | None, typer.Option(help="With --interactive: a table of pairs to ask about.")] = None,
    questions: Annotated[
        int | None, typer.Option(min=1, help="With --interactive: how many answers are wanted.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Infer a new user's latent from labelled pairs, or from answers to questions."""
    if interactive:
        _check_alone({"--pairs": pairs, "--user": user, "--map": map_}, "is about a file of pairs, and questions need")
        _interactive(run, profile, out, pool, questions, overrides or [], as_json)
        return
    _check_alone(
        {"--profile": profile, "--out": out, "--pool": pool, "--questions": questions},
        "is about --interactive, and there is",
    )
    if pairs is None:
        raise ConfigError("There are no pairs to infer from.", fix="Give --pairs FILE, or --interactive.")
    from fedvpa.api.personalize import personalize as run_it

    result = run_it(run, pairs, user=user, columns=columns_of(map_), overrides=overrides or [])
    finish(result.to_dict(), as_json, lambda: _line(f"{result.pairs} pairs", result.prototype, result.responsibilities))


def _interactive(
    run: Path,
    profile: str | None,
    out: Path | None,
    pool: Path | None,
    questions: int | None,
    overrides: Sequence[str],
    as_json: bool,
) -> None:
    from fedvpa.api.teach import teach
    from fedvpa.cli.asking import asker

    kept = f"profile {profile!r}" if out is None else str(out)
    with interrupting(f"stopped. The answers so far are kept: {kept}."):
        result = teach(run, asker(), profile=profile, out=out, pool=pool, questions=questions, overrides=overrides)
    found = result.profile
    text = _line(f"{result.answered} answers, {found.pairs} pairs in all", found.prototype, found.responsibilities)
    finish(result.to_dict(), as_json, lambda: f"{text}\nkept: {kept}")


def _line(first: str, prototype: int, responsibilities: Sequence[float]) -> str:
    shares = ", ".join(f"{share:.3f}" for share in responsibilities)
    return f"{first}; prototype {prototype}; responsibilities {shares}"


def _check_alone(given: dict[str, object], why: str) -> None:
    """Raise ConfigError for the first option that the other way of personalizing does not read."""
    for name, value in given.items():
        if value not in (None, []):
            raise ConfigError(f"{name} {why} none.", fix="Leave it out.")
