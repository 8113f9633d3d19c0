"""The summary of a comparison as a table for people: on a terminal, as plain text, and in the report."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fedvpa.evaluation.judge_bias import bias_warnings, judge_lines
from fedvpa.evaluation.report.cells import MISSING, TableText, filled, worded
from fedvpa.evaluation.report.drawing import Row
from fedvpa.evaluation.report.protocol_tables import protocol_tables
from fedvpa.evaluation.summaries import BAYES, GLOBAL, INFORMED, ORACLE, Condition

WORSE = " ↓"
"""Marks the preference under which a method wins less often than under the others."""

POOLED_KEY = " Pooled: each client on the test pairs of all clients of its true group."

BAYES_KEY = (
    " Way to Bayes: from the better of global and local (0) to who knows each user's true utility (1). Noiseless: "
    "pairs ordered as that utility does, whatever the label says; those of equal utility are left out."
)
"""What the columns mean that only the bundled world has."""

WORDS = ("method", "preference", "users", "variant")
"""The columns that hold words."""


def summary_text(compared: Mapping[str, Any]) -> TableText:
    """The cells of a comparison's summary; a column that no row can fill is left out.

    Args:
        compared: What :func:`fedvpa.evaluation.accuracy_tables.comparison` returned, as JSON.
    """
    summary: Sequence[Row] = compared["summary"]
    groups = sorted({name for row in summary for name in row["groups"]})
    seconds = _mean_seconds(compared["rows"])
    known = {_condition(row): row for row in compared.get("bayes_rows", ())}
    pooled = {_condition(row): row for row in compared.get("pooled", ())}
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("N", lambda row: str(row["n_clients"])),
        ("method", lambda row: str(row["method"])),
        ("accuracy", lambda row: worded(row["mean"], row["ci95"], row.get("method_ci95"))),
        ("pooled", lambda row: worded(pooled.get(_condition(row), {}).get("mean"))),
        ("gap closed", _ratio_cell("gap_closed", ORACLE)),
        ("of informed's gain", _ratio_cell("informed_share", INFORMED)),
        ("way to Bayes", lambda row: _way_cell(row, known.get(_condition(row)), "")),
        ("noiseless", lambda row: _noiseless_cell(known.get(_condition(row)))),
        *((name, _group_cell(name)) for name in groups),
        ("worst tenth", lambda row: worded(row["worst_decile"]["mean"] if row["worst_decile"] else None)),
        ("unseen users", lambda row: _prefixed(row, "unseen_")),
        ("unseen way", lambda row: _way_cell(row, known.get(_condition(row)), "unseen_")),
        ("hold-out", lambda row: _prefixed(row, "holdout_")),
        ("hold-out gap", _ratio_cell("holdout_gap_closed", ORACLE)),
        ("of informed's hold-out gain", _ratio_cell("holdout_informed_share", INFORMED)),
        ("seconds", lambda row: worded(seconds.get(_condition(row)), digits=1)),
    ]
    return filled(columns, summary)


def table(compared: Mapping[str, Any]) -> Table:
    """The summary as a rich table, intervals below their numbers so that it fits 120 columns."""
    further = POOLED_KEY if compared.get("pooled") else ""
    further += BAYES_KEY if compared.get("bayes_rows") else ""
    return _rich(summary_text(compared), f"Mean over clients. {interval_key(compared['summary'], 'models')}{further}")


def interval_key(summary: Sequence[Row], trained: str) -> str:
    """What the brackets of a table mean, by how many seeds it has.

    Args:
        summary: The rows of its summary.
        trained: What was trained: models, or policies.
    """
    most = max((len(row["seeds"]) for row in summary), default=0)
    if most < 2:
        return f"[95% interval of these trained {trained}]: with one seed, nothing is said about the method."
    return f"[95% interval of these trained {trained}] ([95% interval of the method, over training seeds too])."


def table_text(compared: Mapping[str, Any], width: int = 120) -> str:
    """The summary as plain text, wrapped to ``width`` columns, and below it the further tables of the comparison."""
    further = (
        f"\n{one.title}\n{_printed(_rich(one.brief or one.table, ''), width)}"
        + "\n".join(wrap(" ".join(one.notes), width))
        for one in protocol_tables(compared)
        if one.printed
    )
    return _printed(table(compared), width) + "".join(f"{text}\n" for text in further)


def policy_summary_text(compared: Mapping[str, Any]) -> TableText:
    """The cells of a comparison of policies, one row per method and preference; columns without content are left out.

    Args:
        compared: What :func:`fedvpa.evaluation.win_rates.policy_comparison` returned, as JSON.
    """
    seconds = _mean_seconds(compared["policy_rows"])
    right = compared.get("policy_judge_accuracy", {})
    rows = [
        {"method": row["method"], "n_clients": row["n_clients"], "whose": users, "preference": name}
        | judged
        | {"worse": name == block["worse_axis"], "oracle_share": block["oracle_share"][name]}
        for row in compared["policy_summary"]
        for users, block in (("seen", row), ("unseen", row["unseen"]))
        if block is not None
        for name, judged in block["preferences"].items()
    ]
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("N", lambda row: str(row["n_clients"])),
        ("method", lambda row: str(row["method"])),
        ("preference", lambda row: f"{row['preference']}{WORSE if row['worse'] else ''}"),
        ("users", lambda row: MISSING if all(other["whose"] == "seen" for other in rows) else row["whose"]),
        ("win rate", lambda row: worded(row["win_rate"], row["ci95"], row.get("method_ci95"))),
        ("judge's accuracy", lambda row: _judge_cell(right.get(row["preference"]))),
        ("same length", lambda row: worded(row["length_controlled"])),
        ("gain over base", _gain_cell),
        ("of oracle's gain", _share_cell),
        ("parsed", lambda row: worded(row["parsed"])),
        ("missing", lambda row: str(row["missing"]) if any(other["missing"] for other in rows) else MISSING),
        ("flipped", lambda row: MISSING if row.get("flipped") is None else f"{row['flipped']:.1%}"),
        ("seconds", lambda row: worded(seconds.get(_condition(row)), digits=1)),
    ]
    return filled(columns, rows)


def policy_table(compared: Mapping[str, Any]) -> Table:
    """The summary of policies as a rich table, intervals below their numbers so that it fits 120 columns."""
    key = interval_key(compared["policy_summary"], "policies")
    return _rich(
        policy_summary_text(compared),
        f"Against the base policy, mean over prompts. {key}{WORSE} the method's worse axis.",
    )


def policy_table_text(compared: Mapping[str, Any], width: int = 120) -> str:
    """The same as plain text, wrapped to ``width`` columns; what is to be known about the judges stands below."""
    judges = compared.get("policy_judges", [])  # comparisons of earlier releases have none
    lines = [wrap(line, width) for line in (*judge_lines(judges), *bias_warnings(judges))]
    return _printed(policy_table(compared), width) + "".join(f"{line}\n" for said in lines for line in said)


def _rich(text: TableText, caption: str) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, collapse_padding=True, caption=caption, caption_justify="left")
    for name in text.header:
        shown.add_column(name.replace(" ", "\n"), justify="left" if name in WORDS else "right")
    sizes = [row[0] for row in text.rows]
    for position, row in enumerate(text.rows):
        last_of_size = position + 1 == len(sizes) or sizes[position + 1] != sizes[position]
        shown.add_row(*(cell.replace(" [", "\n[").replace(" ([", "\n([") for cell in row), end_section=last_of_size)
    return shown


def _printed(table: Table, width: int) -> str:
    page = io.StringIO()
    Console(file=page, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def _share_cell(row: Row) -> str:
    """The oracle has all of its own gain by definition."""
    share = row["oracle_share"]
    if share is None:
        return MISSING
    if row["method"] == ORACLE:
        return worded(share["mean"], digits=2)
    return worded(share["mean"], share["ci95"], share.get("method_ci95"), digits=2)


def _judge_cell(found: Row | None) -> str:
    """How often the judge orders held-out pairs right; of judges for which it is known."""
    return MISSING if found is None else worded(found["value"], found["ci95"])


def _gain_cell(row: Row) -> str:
    return worded(row["utility_gain"], row["utility_gain_ci95"], row.get("utility_gain_method_ci95"), digits=2)


def _prefixed(row: Row, prefix: str) -> str:
    return worded(row[f"{prefix}mean"], row[f"{prefix}ci95"], row.get(f"{prefix}method_ci95"))


def _ratio_cell(name: str, top: str) -> Callable[[Row], str]:
    """Global is 0 and ``top`` is 1 by definition: their intervals would only be noise on the page."""

    def cell(row: Row) -> str:
        if row["method"] in (GLOBAL, top):
            return worded(row.get(name), digits=2)
        return worded(row.get(name), row.get(f"{name}_ci95"), row.get(f"{name}_method_ci95"), digits=2)

    return cell


def _way_cell(row: Row, known: Row | None, prefix: str) -> str:
    """The yardsticks at both ends are 0 and 1 by definition."""
    way = None if known is None else known[f"{prefix}way"]
    if known is None or way is None:
        return MISSING
    if row["method"] in (known[f"{prefix}base"], BAYES):
        return worded(way["mean"], digits=2)
    return worded(way["mean"], way["ci95"], way["method_ci95"], digits=2)


def _noiseless_cell(known: Row | None) -> str:
    return MISSING if known is None or known["noiseless"] is None else worded(known["noiseless"]["mean"])


def _group_cell(name: str) -> Callable[[Row], str]:
    return lambda row: worded(row["groups"][name]["mean"] if name in row["groups"] else None)


def _mean_seconds(rows: Sequence[Row]) -> dict[Condition, float]:
    """Mean training time by method and number of clients, over the seeds whose time is known."""
    times: dict[Condition, list[float]] = {}
    for row in rows:
        if row["seconds"] is not None:
            times.setdefault(_condition(row), []).append(row["seconds"])
    return {condition: sum(seconds) / len(seconds) for condition, seconds in times.items()}


def _condition(row: Row) -> Condition:
    return Condition(row["method"], row["n_clients"])
