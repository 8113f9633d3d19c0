"""What the numbers rest on: users, pairs, what was held out, what of the data is not used, and what noise promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedvpa.evaluation.report.cells import TableText
from fedvpa.evaluation.report.drawing import counted
from fedvpa.privacy.statement import rows as privacy_rows


def counts_text(compared: Mapping[str, Any]) -> TableText:
    """How many users, pairs and prompts there are.

    Args:
        compared: What ``comparison.json`` or ``metrics.json`` holds; what an earlier release did not write is left out.
    """
    rows: list[tuple[str, str]] = []
    for row in _one_per_size(compared):
        users = counted(row["clients"], "user")
        rows.append((f"users scored at N = {row['n_clients']}", f"{users} (over {counted(len(row['seeds']), 'seed')})"))
    held = compared.get("held_out")
    if held:
        rows.append(("held out", f"{held['test_units']:,} of {held['units']:,} units (by {held['unit']})"))
        rows.append(("test pairs", f"{held['test_pairs']:,} of {held['pairs']:,}"))
    for key, name in (("data", "rows"), ("holdout_data", "hold-out rows")):
        if compared.get(key):
            rows.append((f"{name} read", f"{compared[key]['read']:,}"))
            rows.append((f"{name} used", f"{compared[key]['used']:,}"))
    for row in compared.get("policy_summary", ())[:1]:
        judged = next(iter(row["preferences"].values()), None)
        if judged:
            rows.append(("judged prompts for each preference", f"{judged['prompts']:,}"))
    return TableText(("what", "how many"), tuple(rows))


def unused_text(compared: Mapping[str, Any]) -> TableText:
    """What of the data was left out, cut or changed, by reason, with the place of the first one."""
    return TableText(
        ("effect", "reason", "how many", "first"),
        tuple(
            (str(one["effect"]), str(one["reason"]), counted(one["count"], str(one["unit"])), str(one["first"]))
            for key in ("data", "holdout_data")
            for one in (compared.get(key) or {}).get("findings", ())
        ),
    )


def privacy_text(compared: Mapping[str, Any]) -> TableText:
    """ε in both readings, δ, unit, relation, and what they cover; no rows where nothing was noised.

    Args:
        compared: What ``metrics.json`` holds, or what it holds of a policy that clients trained.
    """
    found = compared.get("privacy")
    return TableText(("what", "value"), () if found is None else tuple(privacy_rows(found)))


def _one_per_size(compared: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found: dict[int, Mapping[str, Any]] = {}
    for row in compared.get("summary", ()):
        found.setdefault(row["n_clients"], row)
    return list(found.values())
