"""Tables whose cells are words already, and numbers in words: what every table of a report is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedvpa.evaluation.report.drawing import Row

MISSING = "–"


@dataclass(frozen=True, slots=True)
class TableText:
    """A table whose cells are words already.

    Attributes:
        header: The names of the columns.
        rows: As many cells per row as columns; ``MISSING`` where nothing is known.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def worded(
    value: float | None,
    interval: Sequence[float] | None = None,
    method: Sequence[float] | None = None,
    digits: int = 3,
) -> str:
    """``0.801 [0.789, 0.812] ([0.770, 0.830])``, the last where the method's interval is known.

    No brackets where there is no interval, ``MISSING`` where there is no value.
    """
    if value is None:
        return MISSING
    ends = "".join(
        f" {left}{low:z.{digits}f}, {high:z.{digits}f}{right}"
        for left, found, right in (("[", interval, "]"), ("([", method, "])"))
        if found
        for low, high in [found]
    )
    return f"{value:z.{digits}f}{ends}"


def filled(columns: Sequence[tuple[str, Callable[[Row], str]]], rows: Sequence[Row]) -> TableText:
    """The cells of every row, made column by column, without the columns that no row can fill."""
    filled = [(name, [cell(row) for row in rows]) for name, cell in columns]
    kept = [(name, cells) for name, cells in filled if any(cell != MISSING for cell in cells)]
    return TableText(tuple(name for name, _ in kept), tuple(zip(*(cells for _, cells in kept), strict=True)))
