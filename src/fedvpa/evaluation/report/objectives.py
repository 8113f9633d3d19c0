"""A training towards several objectives in the report: its figure and its table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedvpa.core.errors import DataError
from fedvpa.evaluation.objective_curves import (
    REWARD,
    WEIGHT,
    Lines,
    curve,
    objectives_of,
    summarise_objectives,
)
from fedvpa.evaluation.report.cells import MISSING, TableText, worded
from fedvpa.evaluation.report.drawing import DASHES, counted, level_line
from fedvpa.evaluation.report.style import COLOURS, FAINT, INK, MARKERS, light_frame, new_figure

SPREADS = {
    "disagreement": "disagreement of λ",
    "drift": "drift of updates",
    "vertex": "steps at a vertex",
}
"""Key → what it is called; all are between 0 and about 1."""

MEGABYTE = 1e6


def objectives_figure(lines: Lines) -> Figure:
    """Rewards by round, the weights λ and how clients disagree on them, the distance to the base policy, and bytes.

    Args:
        lines: Of the policy's ``history.jsonl``.

    Raises:
        DataError: If they tell of no objective.
    """
    names = objectives_of(lines)
    if not names:
        raise DataError("the history tells of no objectives to draw.")
    panels: list[tuple[str, str, Callable[[Axes], None]]] = [
        ("Rewards", "mean over the cohort's samples", lambda axes: _rewards(axes, lines, names)),
        ("Weights of the objectives", "mean λ over the cohort", lambda axes: _weights(axes, lines, names)),
        ("How clients differ", "mean over the cohort", lambda axes: _spreads(axes, lines)),
        ("Distance to the base policy", "KL, nats", lambda axes: _plot(axes, lines, "kl", FAINT, "o", None)),
        ("Traffic", "MB since the start", lambda axes: _bytes(axes, lines)),
    ]
    told = [panel for panel in panels if _is_told(panel[0], lines, names)]
    height = -(-len(told) // 2)
    figure = new_figure(8.2, 0.7 + 2.5 * height)
    places = figure.subplots(height, 2, squeeze=False).ravel()
    for axes, (title, unit, draw) in zip(places, told, strict=False):
        draw(axes)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
        axes.set_ylabel(unit, fontsize=8.5, color=INK)
        axes.set_xlabel("round", fontsize=8.5, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        light_frame(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7.5, frameon=False, labelcolor=INK)
    for axes in places[len(told) :]:
        axes.set_visible(False)
    figure.suptitle(
        f"Several objectives: {counted(len(lines), 'round')}",
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
        color=INK,
    )
    return figure


def reward_curves_figure(histories: Mapping[str, Sequence[Lines]]) -> Figure:
    """One panel per objective, with the reward curve of each method: the mean over runs, and a band over them.

    Args:
        histories: Method → the history of each of its runs.

    Raises:
        DataError: If none of them tells of an objective.
    """
    names = list(dict.fromkeys(name for runs in histories.values() for lines in runs for name in objectives_of(lines)))
    if not names:
        raise DataError("no history tells of objectives to draw.")
    figure = new_figure(7.2, 0.9 + 2.7 * len(names))
    panels = figure.subplots(len(names), 1, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=True):
        for place, (method, runs) in enumerate(histories.items()):
            _band(axes, [curve(lines, REWARD + name) for lines in runs], method, COLOURS[place % len(COLOURS)])
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold", color=INK)
        axes.set_ylabel("mean over the cohort's samples", fontsize=8.5, color=INK)
        axes.set_xlabel("round", fontsize=8.5, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        light_frame(axes)
    panels[0].legend(fontsize=8, frameon=False, labelcolor=INK, ncols=3)
    title = "Rewards by round"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def objectives_text(policies: Mapping[str, Lines]) -> TableText:
    """A row for each policy and objective that was trained towards several; no row without such a policy.

    Args:
        policies: Name of the policy → the lines of its history.
    """
    rows = []
    for name, lines in policies.items():
        found = summarise_objectives(lines)
        if found is None:
            continue
        for place, (objective, told) in enumerate(found.objectives.items()):
            shared = (
                worded(found.disagreement, digits=3),
                worded(found.drift, digits=2),
                MISSING if found.vertex is None else f"{found.vertex:.0%}",
                worded(found.kl, digits=1),
                f"{found.uplink_bytes / MEGABYTE:,.1f} up, {found.downlink_bytes / MEGABYTE:,.1f} down",
            )
            rows.append(
                (
                    (name or "all users") if place == 0 else "",
                    objective,
                    worded(told.first, digits=2),
                    worded(told.last, digits=2),
                    worded(told.roughness, digits=2),
                    worded(told.weight, digits=2),
                    *(shared if place == 0 else ("",) * len(shared)),
                )
            )
    header = (
        "policy for",
        "objective",
        "reward at first",
        "at last",
        "roughness",
        "mean λ",
        "disagreement of λ",
        "drift",
        "steps at a vertex",
        "KL, nats",
        "MB",
    )
    return TableText(header, tuple(rows))


def _is_told(title: str, lines: Lines, names: Sequence[str]) -> bool:
    keys = {
        "Weights of the objectives": [WEIGHT + name for name in names],
        "How clients differ": list(SPREADS),
        "Distance to the base policy": ["kl"],
    }.get(title)
    return keys is None or any(line.get(key) is not None for line in lines for key in keys)


def _rewards(axes: Axes, lines: Lines, names: Sequence[str]) -> None:
    found = summarise_objectives(lines)
    assert found is not None
    for place, name in enumerate(names):
        rough = found.objectives[name].roughness
        label = name if rough is None else f"{name} (roughness {rough:.2f})"
        _plot(axes, lines, REWARD + name, COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], label)


def _weights(axes: Axes, lines: Lines, names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        _plot(axes, lines, WEIGHT + name, COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], name)
    axes.set_ylim(-0.03, 1.03)


def _spreads(axes: Axes, lines: Lines) -> None:
    for place, (key, name) in enumerate(SPREADS.items(), start=2):
        if any(line.get(key) is not None for line in lines):
            _plot(axes, lines, key, COLOURS[place], MARKERS[place], name)
    level_line(axes, 0)


def _bytes(axes: Axes, lines: Lines) -> None:
    rounds = [line["round"] for line in lines]
    for place, (key, name) in enumerate((("uplink_bytes", "up"), ("downlink_bytes", "down"))):
        total = np.cumsum([line[key] for line in lines]) / MEGABYTE
        style = "-" if place == 0 else DASHES
        axes.plot(rounds, total, color=FAINT, linewidth=1.6, linestyle=style, label=f"{name}: {total[-1]:,.1f} MB")
    axes.set_ylim(bottom=0)


def _plot(axes: Axes, lines: Lines, key: str, colour: str, marker: str, label: str | None) -> None:
    rounds, values = curve(lines, key)
    axes.plot(rounds, values, color=colour, marker=marker, markersize=3, linewidth=1.4, label=label)


def _band(axes: Axes, runs: Sequence[tuple[list[int], list[float]]], label: str, colour: str) -> None:
    """The mean over runs in the rounds that all of them have, with the lowest and the highest."""
    values = [dict(zip(rounds, own, strict=True)) for rounds, own in runs if rounds]
    if not values:
        return
    rounds = sorted(set.intersection(*(set(own) for own in values)))
    table = np.array([[own[round_] for round_ in rounds] for own in values])
    axes.plot(rounds, table.mean(0), color=colour, linewidth=1.6, label=label)
    if len(table) > 1:
        axes.fill_between(rounds, table.min(0), table.max(0), color=colour, alpha=0.15, linewidth=0)
