"""The summary of a comparison as a table for people: on a terminal, as plain text, and in the report."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fedvpa.evaluation.comparison import GLOBAL, ORACLE

MISSING = "–"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TableText:
    """A table whose cells are words already.

    Attributes:
        header: The names of the columns.
        rows: As many cells per row as columns; ``MISSING`` where nothing is known.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def summary_text(compared: Mapping[str, Any]) -> TableText:
    """The cells of a comparison's summary; a column that no row can fill is left out.

    Args:
        compared: What :func:`fedvpa.evaluation.comparison.comparison` returned.
    """
    summary: Sequence[Row] = compared["summary"]
    groups = sorted({name for row in summary for name in row["groups"]})
    seconds = _mean_seconds(compared["rows"])
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("N", lambda row: str(row["n_clients"])),
        ("method", lambda row: str(row["method"])),
        ("accuracy", lambda row: worded(row["mean"], row["ci95"])),
        ("gap closed", _gap_cell("")),
        *((name, _group_cell(name)) for name in groups),
        ("worst tenth", lambda row: worded(row["worst_decile"]["mean"] if row["worst_decile"] else None)),
        ("unseen users", lambda row: worded(row["unseen_mean"], row["unseen_ci95"])),
        ("hold-out", lambda row: worded(row["holdout_mean"], row["holdout_ci95"])),
        ("hold-out gap", _gap_cell("holdout_")),
        ("seconds", lambda row: worded(seconds.get((row["method"], row["n_clients"])), digits=1)),
    ]
    filled = [(name, [cell(row) for row in summary]) for name, cell in columns]
    kept = [(name, cells) for name, cells in filled if any(cell != MISSING for cell in cells)]
    return TableText(tuple(name for name, _ in kept), tuple(zip(*(cells for _, cells in kept), strict=True)))


def table(compared: Mapping[str, Any]) -> Table:
    """The summary as a rich table, intervals below their numbers so that it fits 120 columns."""
    text = summary_text(compared)
    resamples = compared["bootstrap"]["resamples"]
    shown = Table(
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        caption=f"Mean over clients [95% interval: {resamples} resamples of clients within seeds].",
        caption_justify="left",
    )
    for name in text.header:
        shown.add_column(name.replace(" ", "\n"), justify="left" if name == "method" else "right")
    sizes = [row[0] for row in text.rows]
    for position, row in enumerate(text.rows):
        last_of_size = position + 1 == len(sizes) or sizes[position + 1] != sizes[position]
        shown.add_row(*(cell.replace(" [", "\n[") for cell in row), end_section=last_of_size)
    return shown


def table_text(compared: Mapping[str, Any], width: int = 120) -> str:
    """The same as plain text, wrapped to ``width`` columns."""
    page = io.StringIO()
    Console(file=page, width=width, color_system=None).print(table(compared))
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines()) + "\n"


def worded(value: float | None, interval: Sequence[float] | None = None, digits: int = 3) -> str:
    """``0.801 [0.789, 0.812]``; no brackets where there is no interval, ``MISSING`` where there is no value."""
    if value is None:
        return MISSING
    number, *ends = (f"{end:z.{digits}f}" for end in (value, *(interval or ())))
    return f"{number} [{', '.join(ends)}]" if ends else number


def _gap_cell(prefix: str) -> Callable[[Row], str]:
    """Global closes 0 of the gap and oracle 1 by definition: their intervals would only be noise on the page."""

    def cell(row: Row) -> str:
        interval = None if row["method"] in (GLOBAL, ORACLE) else row[f"{prefix}gap_closed_ci95"]
        return worded(row[f"{prefix}gap_closed"], interval, digits=2)

    return cell


def _group_cell(name: str) -> Callable[[Row], str]:
    return lambda row: worded(row["groups"][name]["mean"] if name in row["groups"] else None)


def _mean_seconds(rows: Sequence[Row]) -> dict[tuple[str, int], float]:
    """Mean training time by (method, n_clients), over the seeds whose time is known."""
    times: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row["seconds"] is not None:
            times.setdefault((row["method"], row["n_clients"]), []).append(row["seconds"])
    return {cell: sum(found) / len(found) for cell, found in times.items()}
