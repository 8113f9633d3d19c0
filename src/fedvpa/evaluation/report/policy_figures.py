"""Figures of policies: win rates, what is gained under two preferences, and how one policy follows z.

Each takes plain numbers, says in words what its marks are, and returns a Figure. One whose numbers are not there raises
DataError, which says what it needs: a report leaves it out and prints that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fedvpa.core.errors import DataError
from fedvpa.evaluation.report.drawing import (
    Ends,
    Row,
    counted,
    gain_plane,
    interval_mark,
    level_line,
    most_seeds,
)
from fedvpa.evaluation.report.style import (
    COLOURS,
    GRID,
    INK,
    MARKERS,
    label_axes,
    legend_below,
    new_figure,
    series_styles,
)

INTERVAL_NOTE = "95% intervals of these trained policies"

BARS = 0.8
"""Width of all bars of one method, of the distance between methods."""

NUMBERED = 3
"""With more preferences there is no room for a number above each bar."""


def win_rate_figure(compared: Mapping[str, Any], n_clients: int) -> Figure:
    """Win rates against the base policy: a bar per method and preference, with unseen users as open marks.

    Args:
        compared: What :func:`fedvpa.evaluation.win_rates.policy_comparison` returned, as JSON.
        n_clients: Which number of clients to show.

    Raises:
        DataError: If there is no win rate at that number of clients.
    """
    rows = [row for row in _rows(compared, n_clients) if row["worse_axis"] is not None]
    if not rows:
        raise DataError(f"there is no win rate at N = {n_clients} to draw.")
    names = sorted({name for row in rows for name in row["preferences"]})
    figure = new_figure(width=max(7.2, 1.6 + 0.62 * len(rows) * len(names)))
    axes = figure.subplots()
    for position, name in enumerate(names):
        shift = (position - (len(names) - 1) / 2) * BARS / len(names)
        _bars(axes, rows, name, shift, BARS / len(names), COLOURS[position % len(COLOURS)], len(names) <= NUMBERED)
    level_line(axes, 0.5, "as good as the base policy", color=INK, zorder=4)
    axes.set_xticks(range(len(rows)), [row["method"] for row in rows])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylim(0, 1.08)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    label_axes(
        axes,
        title="Win rate against the base policy",
        note=f"{_setting(rows, n_clients)}; {INTERVAL_NOTE}",
        x="method",
        y="answers preferred (a tie counts one half)",
    )
    legend_below(figure, axes, columns=3)
    return figure


def pareto_figure(compared: Mapping[str, Any], n_clients: int) -> Figure:
    """What each method's policies gain over the base policy under two preferences; up and to the right is better.

    Args:
        compared: What :func:`fedvpa.evaluation.win_rates.policy_comparison` returned, as JSON. Of more than two
            preferences the first two are shown, and the title says so.
        n_clients: Which number of clients to show.

    Raises:
        DataError: If fewer than two preferences have utilities at that number of clients.
    """
    rows = _rows(compared, n_clients)
    names = sorted({name for row in rows for name in row["preferences"] if _gain(row, name)[0] is not None})
    if len(names) < 2:
        raise DataError(
            f"at N = {n_clients} {counted(len(names), 'preference')} with utilities cannot span a plane.",
            fix="Judge at least two preferences with a judge that knows utilities.",
        )
    across, up = names[:2]
    figure, axes = gain_plane(5.2)
    styles = series_styles([row["method"] for row in rows])
    for row in rows:
        for users, block in (("", row), (", unseen users", row["unseen"])):
            if block is None:
                continue
            (x, x_ends), (y, y_ends) = _gain(block, across), _gain(block, up)
            if x is None or y is None:
                continue
            interval_mark(
                axes,
                x,
                y,
                styles[row["method"]],
                x_ends=x_ends,
                y_ends=y_ends,
                size=7.5,
                elinewidth=1.3,
                label=f"{row['method']}{users}",
                zorder=4,
                **(_open_mark(styles[row["method"]][0]) if users else {}),
            )
    axes.margins(0.12)
    of_more = "" if len(names) == 2 else f", the first two of {len(names)} preferences"
    label_axes(
        axes,
        title=f"Utility gained on {across} and on {up}{of_more}",
        note=f"{_setting(rows, n_clients)}; {INTERVAL_NOTE}",
        x=f"mean {across} utility above the base policy's",
        y=f"mean {up} utility above the base policy's",
    )
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    legend_below(figure, axes, columns=3)
    return figure


def switching_figure(switched: Mapping[str, Any]) -> Figure:
    """What one policy's answers are worth to each preference while z moves from one prototype to another.

    Utilities where the judge knows them, else win rates against the base policy.

    Args:
        switched: What :func:`fedvpa.evaluation.switching.switching` returned, as JSON.
    """
    by_utility = switched.get("measure", "utility") == "utility"  # earlier releases had nothing else
    word, values = ("utility", "utility") if by_utility else ("win rate", "win_rates")
    steps: Sequence[float] = switched["steps"]
    figure = new_figure()
    axes = figure.subplots()
    for position, (name, path) in enumerate(switched["preferences"].items()):
        colour = COLOURS[position % len(COLOURS)]
        axes.plot(
            steps,
            path[values],
            color=colour,
            marker=MARKERS[position % len(MARKERS)],
            markersize=6.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            linewidth=1.6,
            label=f"{name} {word}, {path['direction']}{'' if path['monotone'] else ' (not monotone)'}",
            zorder=3,
        )
        if all(ends is not None for ends in path["ci95"]):
            low, high = zip(*path["ci95"], strict=True)
            axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.set_xticks(steps)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    others = [name for name in switched["preferences"] if name != switched["rising"]]
    label_axes(
        axes,
        title="One policy, z moved from one prototype to another",
        note=f"{switched['method']}, N = {switched['n_clients']} clients, {counted(len(switched['seeds']), 'seed')}; "
        f"bands are {INTERVAL_NOTE}",
        x=f"share of the way from {' and '.join(others) or 'the first prototype'} to {switched['rising']}",
        y="mean utility of the answers" if by_utility else "answers preferred to the base policy's",
    )
    if not by_utility:
        level_line(axes, 0.5, "as good as the base policy")
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend_below(figure, axes)
    return figure


def _bars(axes: Axes, rows: Sequence[Row], name: str, middle: float, width: float, colour: str, numbered: bool) -> None:
    """The bars of one preference, each with its interval, the mark of unseen users beside it, and its number."""
    aside = width / 5 if any(row["unseen"] for row in rows) else 0.0
    first = {"seen": name, "unseen": f"{name}, unseen users"}
    for position, row in enumerate(rows):
        centre = position + middle
        value, ends = _rate(row, name)
        if value is None:
            continue
        label = first.pop("seen", None)
        axes.bar(centre, value, width * 0.92, color=colour, label=label, zorder=2)
        top = _mark(axes, centre - aside, value, ends, "none", colour, None)
        value_unseen, ends_unseen = _rate(row["unseen"], name)
        if value_unseen is not None:
            label = first.pop("unseen", None)
            top = max(top, _mark(axes, centre + aside, value_unseen, ends_unseen, "D", colour, label))
        if numbered:
            axes.text(centre, top + 0.012, f"{value:.0%}", ha="center", va="bottom", fontsize=8.5, color=INK, zorder=6)


def _mark(axes: Axes, x: float, value: float, ends: Ends, marker: str, colour: str, label: str | None) -> float:
    """A point with its interval; returns how high it reaches."""
    style = (INK, marker)
    interval_mark(
        axes, x, value, style, y_ends=ends, size=5.5, elinewidth=1.3, label=label, zorder=5, **_open_mark(colour)
    )
    return max(value, *(ends or (value,)))


def _open_mark(colour: str) -> dict[str, Any]:
    """What makes a mark white inside."""
    return {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.4}


def _rows(compared: Mapping[str, Any], n_clients: int) -> list[Row]:
    return [row for row in compared["policy_summary"] if row["n_clients"] == n_clients]


def _setting(rows: Sequence[Row], n_clients: int) -> str:
    prompts = max(found["prompts"] for row in rows for found in row["preferences"].values())
    return f"N = {n_clients} clients, {most_seeds(rows)}, {counted(prompts, 'unseen prompt')}"


def _gain(block: Row, name: str) -> tuple[float | None, Ends]:
    found = block["preferences"].get(name)
    return (None, None) if found is None else (found["utility_gain"], found["utility_gain_ci95"])


def _rate(block: Row | None, name: str) -> tuple[float | None, Ends]:
    found = None if block is None else block["preferences"].get(name)
    return (None, None) if found is None else (found["win_rate"], found["ci95"])
