"""``fedvpa align``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedvpa.cli.common import JsonOption, OverrideArgument, finish

if TYPE_CHECKING:
    from fedvpa.api.align import AlignResult


def align(
    run: Annotated[Path, typer.Argument(help="A run directory with a trained selector.")],
    overrides: OverrideArgument = None,
    method: Annotated[
        str | None, typer.Option(help="feddpo: align by the run's pairs instead of its selector.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a policy that is there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Align the policy of a run by DPO, with its selector as the reward."""
    from fedvpa.api.align import align as run_it

    result = run_it(run, overrides=overrides or [], method=method, overwrite=overwrite, resume=resume)
    finish(result.to_dict(), as_json, lambda: _text(result))


def _text(result: AlignResult) -> str:
    lines = [f"{name or result.method}: {_described(policy.notes)}" for name, policy in result.policies.items()]
    return "\n".join([*lines, str(result.run / "policy")])


def _described(notes: Mapping[str, Any]) -> str:
    return _by_selector(notes) if "stopped" in notes else _by_clients(notes)


def _by_selector(notes: Mapping[str, Any]) -> str:
    look, pairs = notes["stopped"], notes["pairs"]
    return (
        f"{pairs['kept']} pairs of {pairs['pairs']}, {pairs['switched']} prompts with a pair in both orders; stopped "
        f"at step {look['step']}; the selector prefers it to the base policy on {look['win_rate']:.1%} of validation "
        f"prompts; KL {look['kl']:.1f} nats"
    )


def _by_clients(notes: Mapping[str, Any]) -> str:
    rejected = f"; {notes['rejected']} updates rejected" if notes["rejected"] else ""
    return f"{notes['rounds']} rounds, adapters averaged by {notes['averaging']}{rejected}"
