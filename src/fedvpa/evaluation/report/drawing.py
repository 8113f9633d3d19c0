"""Marks that several figures draw: points with their intervals, dashed levels, and counts in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedvpa.evaluation.report.style import FAINT, INK, new_figure

Row = Mapping[str, Any]
"""One object of a list in ``comparison.json``."""

Ends = Sequence[float] | None
"""(low, high) of an interval, as JSON holds it."""

DASHES: tuple[float, Sequence[float]] = (0, (4, 3))

STAR = "*"
"""A marker that needs more room than the others to look as large."""


def interval_mark(
    axes: Axes,
    x: float,
    y: float,
    style: tuple[str, str],
    *,
    x_ends: Ends = None,
    y_ends: Ends = None,
    size: float = 6.5,
    **options: Any,
) -> None:
    """A point with its error bars.

    Args:
        axes: Where to draw.
        x: Across.
        y: Up.
        style: Colour and marker; a star is drawn larger than ``size``.
        x_ends: The interval of x.
        y_ends: The interval of y.
        size: Of the marker, in points.
        options: What :meth:`matplotlib.axes.Axes.errorbar` takes, to differ from the usual mark.
    """
    colour, marker = style
    usual: dict[str, Any] = {
        "markersize": size + 3.5 if marker == STAR else size,
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
        "elinewidth": 1.5,
        "capsize": 2.5,
    }
    axes.errorbar(x, y, xerr=_lengths(x_ends, x), yerr=_lengths(y_ends, y), fmt=marker, color=colour, **usual | options)


def series(
    axes: Axes,
    points: Sequence[tuple[float, float, Ends]],
    label: str,
    style: tuple[str, str],
    line: bool = False,
) -> None:
    """Points (x, y, interval of y) with error bars, one legend entry for all, and on demand a line through them."""
    if line:
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], color=style[0], linewidth=1.5, alpha=0.6)
    for position, (x, y, ends) in enumerate(points):
        interval_mark(axes, x, y, style, y_ends=ends, label=label if position == 0 else None, zorder=3)


def level_line(axes: Axes, level: float, label: str | None = None, **options: Any) -> None:
    """A faint dashed line across the figure at ``level``, to compare with."""
    usual: dict[str, Any] = {"color": FAINT, "linewidth": 1, "linestyle": DASHES, "zorder": 1}
    axes.axhline(level, label=label, **usual | options)


def gain_plane(height: float) -> tuple[Figure, Axes]:
    """An empty figure of gains over the base policy under two measures; the base policy stands where its lines cross.

    Args:
        height: Of the figure, in inches.
    """
    figure = new_figure(6.8, height)
    axes = figure.subplots()
    level_line(axes, 0)
    axes.axvline(0, color=FAINT, linewidth=1, linestyle=DASHES, zorder=1)
    axes.scatter(0, 0, s=80, marker="+", color=INK, linewidths=1.8, label="base policy", zorder=3)
    return figure, axes


def dodge(count: int) -> NDArray[np.float64]:
    """[count] small shifts that keep so many series at one place apart."""
    return np.linspace(-0.3, 0.3, count) if count > 1 else np.zeros(1)


def counted(count: int, noun: str) -> str:
    """``1 seed``, ``5 seeds``, ``1,159 prompts``."""
    return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"


def most_seeds(rows: Sequence[Row]) -> str:
    """How many seeds the row with most of them has, in words."""
    return counted(max(len(row["seeds"]) for row in rows), "seed")


def _lengths(interval: Ends, value: float) -> list[list[float]] | None:
    """Lengths below and above ``value`` as matplotlib wants them; None without an interval."""
    return None if interval is None else [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]
