"""What ``audit.json`` holds, as names and values: for the report and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedvpa.evaluation.report.cells import MISSING, TableText

AGAINST = {"released": "who sees the released sums", "server": "who also sees who took part"}


def audit_text(found: Mapping[str, Any] | None) -> TableText:
    """The audit of a run; no rows where there was none."""
    return TableText(("attack", "result"), () if not found else tuple(audit_rows(found)))


def audit_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The bounds on ε beside the claims, how well groups are guessed, how well members are told from others."""
    return [*_canary_rows(found["canaries"]), *_attribute_rows(found), *_membership_rows(found)]


def _canary_rows(canaries: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    rows = []
    for key, who in AGAINST.items() if canaries else ():
        assert canaries is not None
        one = canaries[key]
        guesses, told = one["guesses"], one["membership"]
        rows.append(
            (
                f"canaries, {who}: ε is at least (95%)",
                f"{one['shown']:.2f}; claimed {one['claimed']:.3g}; {canaries['canaries']} canaries can show "
                f"{canaries['largest']:.2f} ({guesses['right']} of {guesses['guessed']} guesses right)",
            )
        )
        rows.append((f"canaries, {who}: planted or not, AUC", _separated(told)))
    return rows


def _attribute_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for row in found["attributes"]:
        guessed = row["guessed"]
        value = MISSING
        if guessed is not None:
            low, high = guessed["ci95"]
            value = f"{guessed['auc']:.3f} [{low:.3f}, {high:.3f}], {guessed['users']:,} users"
        rows.append((f"group, {row['who']}: {row['sees']}, AUC", value))
    return rows


def _membership_rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [("who trained, released model: fit of a user's pairs, AUC", _separated(found["membership"]))]


def _separated(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return MISSING
    low, high = told["ci95"]
    return (
        f"{told['auc']:.3f} [{low:.3f}, {high:.3f}]; {told['tpr']:.1%} found at 1% false alarms "
        f"({told['members']:,} beside {told['others']:,})"
    )
