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
        str | None,
        typer.Option(
            help="Let the run's clients train the policy: feddpo on their pairs; firm, mgda, scalar, single, soups or "
            "fedcmoo towards several rewards, by samples of their prompts."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a policy that is there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Align the policy of a run: by DPO with its selector as the reward, or by its clients (--method)."""
    from fedvpa.api.align import align as run_it

    result = run_it(run, overrides=overrides or [], method=method, overwrite=overwrite, resume=resume)
    finish(result.to_dict(), as_json, lambda: _text(result))


def _text(result: AlignResult) -> str:
    lines = [f"{name or result.method}: {_described(policy.notes)}" for name, policy in result.policies.items()]
    lines += _objectives(result)
    lines += [f"ALARM: {alarm}" for alarm in result.alarms]
    return "\n".join([*lines, str(result.run / "policy")])


def _objectives(result: AlignResult) -> list[str]:
    """Where the training towards several objectives began and ended; nothing of other trainings."""
    from fedvpa.core.files import read_own_lines
    from fedvpa.evaluation.objective_curves import summarise_objectives

    history = result.run / "policy" / "history.jsonl"
    found = summarise_objectives(read_own_lines(history)) if history.is_file() else None
    if found is None:
        return []
    shown = {name: ("-" if one.first is None else f"{one.first:.2f}", one) for name, one in found.objectives.items()}
    rewards = [f"  {name}: {first} to {one.last:.2f}" for name, (first, one) in shown.items()]
    divergence = "" if found.kl is None else f"; KL {found.kl:.1f} nats"
    return ["mean reward of the clients' samples, first to last:", *rewards, f"  {found.rounds} rounds{divergence}"]


def _described(notes: Mapping[str, Any]) -> str:
    return _by_selector(notes) if "stopped" in notes else _by_clients(notes)


def _by_selector(notes: Mapping[str, Any]) -> str:
    look, pairs = notes["stopped"], notes["pairs"]
    found = f"{pairs['kept']} pairs of {pairs['pairs']}, {pairs['switched']} prompts with a pair in both orders; "
    if trained := (notes["labels"] or {}).get("trained"):
        found += f"{trained['right']:.1%} ± {trained['error']:.1%} of their labels are right; "
    if look["step"] == 0:
        return found + "no look was better than the base policy, which is kept"
    return (
        found
        + f"stopped at step {look['step']}, {notes['admissible']} of {notes['looks']} looks admissible; the selector "
        f"prefers it to the base policy on {look['win_rate']:.1%} of validation prompts; KL {look['kl']:.1f} nats, "
        f"{look['language']:.2f} nats a token under the base (its own {look['base_language']:.2f}), distinct-2 "
        f"{look['distinct']:.2f} ({look['base_distinct']:.2f})"
    )


def _by_clients(notes: Mapping[str, Any]) -> str:
    rejected = f"; {notes['rejected']} updates rejected" if notes["rejected"] else ""
    averaged = f", adapters averaged by {notes['averaging']}" if "averaging" in notes else ""
    from fedvpa.alignment.language_look import look_line

    return f"{notes['rounds']} rounds{averaged}{rejected}; {look_line(notes)}"
