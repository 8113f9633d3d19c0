"""``fedvpa align``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedvpa.cli.common import JsonOption, OverrideArgument, check_run, finish


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
    check_run(run, overrides)
    from fedvpa.api.align import align as run_it

    found = run_it(run, overrides=overrides or [], method=method, overwrite=overwrite, resume=resume)
    finish(found, as_json, lambda: _text(run, found))


def _text(run: Path, found: dict[str, Any]) -> str:
    lines = [
        f"{name or found['method']}: {_by_selector(policy) if 'stopped' in policy else _by_clients(policy)}"
        for name, policy in found["policies"].items()
    ]
    return "\n".join([*lines, str(run / "policy")])


def _by_selector(policy: dict[str, Any]) -> str:
    look, pairs = policy["stopped"], policy["pairs"]
    return (
        f"{pairs['kept']} pairs of {pairs['pairs']}, {pairs['switched']} prompts with a pair in both orders; stopped "
        f"at step {look['step']}; the selector prefers it to the base policy on {look['win_rate']:.1%} of validation "
        f"prompts; KL {look['kl']:.1f} nats"
    )


def _by_clients(policy: dict[str, Any]) -> str:
    rejected = f"; {policy['rejected']} updates rejected" if policy["rejected"] else ""
    return f"{policy['rounds']} rounds, adapters averaged by {policy['averaging']}{rejected}"
