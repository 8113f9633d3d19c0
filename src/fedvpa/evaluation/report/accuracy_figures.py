"""Figures of accuracies: by method and group, by number of clients, and by pairs that a new user gives.

Each takes plain numbers, says in words what its marks are, and returns a Figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedvpa.core.errors import DataError
from fedvpa.evaluation.accuracy_results import FewShotPoint
from fedvpa.evaluation.report.drawing import Row, dodge, level_line, most_seeds, series
from fedvpa.evaluation.report.style import FAINT, INK, label_axes, legend_below, new_figure, series_styles
from fedvpa.evaluation.summaries import BAYES, GLOBAL, ORACLE, method_order

ALL_CLIENTS = "all clients"

INTERVAL_NOTE = "95% interval of these trained models"

CHANCE = 0.5
"""What a coin gets right of two responses."""


def accuracy_figure(compared: Mapping[str, Any], n_clients: int, bayes: Mapping[str, float] | None = None) -> Figure:
    """Accuracy of every method, over all clients and by true group, beside the oracle's and the Bayes line.

    Args:
        compared: What :func:`fedvpa.evaluation.accuracy_tables.comparison` returned, as JSON.
        n_clients: Which number of clients to show.
        bayes: The best accuracy that any method could reach, by group; ``ALL_CLIENTS`` for all of them. By default
            what the row ``bayes`` has reached on these pairs, where there is one.

    Raises:
        DataError: If nothing was scored at that number of clients.
    """
    known = [row for row in compared["summary"] if row["n_clients"] == n_clients and row["mean"] is not None]
    rows = [row for row in known if row["method"] != BAYES]
    if not rows:
        raise DataError(f"there is no accuracy at N = {n_clients} to draw.")
    groups = sorted({name for row in rows for name in row["groups"]})
    places = [ALL_CLIENTS, *groups]
    figure = new_figure(width=max(7.2, 2.0 + 1.7 * len(places)))
    axes = figure.subplots()
    methods = [row["method"] for row in rows]
    styles = series_styles(methods)
    for row, shift in zip(rows, dodge(len(rows)), strict=True):
        points = [(places.index(name) + shift, value["mean"], value["ci95"]) for name, value in _places(row)]
        series(axes, points, row["method"], styles[row["method"]])
    _yardstick_lines(axes, places, known, bayes or {})
    level_line(axes, CHANCE, "chance", linestyle=(0, (6, 2, 1, 2)))
    axes.set_xticks(range(len(places)), places)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(places) - 0.5)
    label_axes(
        axes,
        title="Accuracy by method and group",
        note=f"N = {n_clients} clients, {most_seeds(rows)}; mean over clients with its {INTERVAL_NOTE}",
        x="clients, by true preference group",
        y="own test pairs ordered as the client did",
    )
    legend_below(figure, axes)
    return figure


def gap_figure(compared: Mapping[str, Any]) -> Figure:
    """The share of the gap between global (0) and oracle (1) that each method closes, by number of clients.

    Raises:
        DataError: If no gap is known, because a yardstick is missing or the oracle never leads.
    """
    rows = [row for row in compared["summary"] if row["gap_closed"] is not None]
    methods = sorted({row["method"] for row in rows} - {GLOBAL, ORACLE, BAYES}, key=method_order)
    if not methods:
        raise DataError("no gap between global and oracle is known.", fix="Score both, and at least one other method.")
    sizes = sorted({row["n_clients"] for row in rows})
    figure = new_figure()
    axes = figure.subplots()
    styles = series_styles(methods)
    for method, shift in zip(methods, dodge(len(methods)), strict=True):
        found = [row for row in rows if row["method"] == method]
        points = [
            (sizes.index(row["n_clients"]) + shift / 3, row["gap_closed"], row["gap_closed_ci95"]) for row in found
        ]
        series(axes, points, method, styles[method], line=True)
    for level, name in ((0.0, "global"), (1.0, "oracle")):
        level_line(axes, level)
        axes.annotate(
            name,
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=FAINT,
        )
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_xlim(-0.4, len(sizes) - 0.6)
    label_axes(
        axes,
        title="Gap closed, from one global model to the oracle",
        note=f"(method − global) / (oracle − global), {most_seeds(rows)}, with its paired {INTERVAL_NOTE}",
        x="number of clients",
        y="gap closed",
    )
    legend_below(figure, axes)
    return figure


def few_shot_figure(curve: Sequence[FewShotPoint], lines: Mapping[str, float] | None = None) -> Figure:
    """Accuracy on clients that training never saw, by the number of labelled pairs they give.

    Args:
        curve: What :func:`fedvpa.evaluation.accuracy_tables.few_shot_curve` returned, for one number of clients.
        lines: Levels to compare with, by name, e.g. the oracle's accuracy.

    Raises:
        DataError: For an empty curve or one that mixes numbers of clients.
    """
    sizes = sorted({point.n_clients for point in curve})
    if len(sizes) != 1:
        raise DataError(f"a few-shot figure shows one number of clients, not {sizes}.")
    methods = sorted({point.method for point in curve}, key=method_order)
    shots = sorted({point.context_pairs for point in curve})
    figure = new_figure()
    axes = figure.subplots()
    styles = series_styles(methods)
    for method, shift in zip(methods, dodge(len(methods)), strict=True):
        points = [
            (shots.index(point.context_pairs) + shift / 3, point.mean, point.ci95)
            for point in curve
            if point.method == method
        ]
        series(axes, points, method, styles[method], line=True)
    for (name, level), dashes in zip((lines or {}).items(), ((4, 3), (1, 2), (6, 2), (2, 4)) * 2, strict=False):
        level_line(axes, level, name, linewidth=1.1, linestyle=(0, dashes))
    level_line(axes, CHANCE, "chance", linestyle=(0, (6, 2, 1, 2)))
    axes.set_xticks(range(len(shots)), [str(shot) for shot in shots])
    unseen = max(point.clients for point in curve)
    label_axes(
        axes,
        title="Unseen users: accuracy by pairs given as context",
        note=f"trained on {sizes[0]} clients, tested on {unseen} others (unseen users × seeds); {INTERVAL_NOTE}",
        x="labelled context pairs per unseen user",
        y="other test pairs ordered as the user did",
    )
    legend_below(figure, axes)
    return figure


def _places(row: Row) -> list[tuple[str, Row]]:
    return [(ALL_CLIENTS, row), *row["groups"].items()]


def _yardstick_lines(axes: Axes, places: Sequence[str], rows: Sequence[Row], bayes: Mapping[str, float]) -> None:
    """The oracle's mean and the Bayes accuracy as short lines across each place."""
    oracle, best = (
        {place: value["mean"] for row in rows if row["method"] == name for place, value in _places(row)}
        for name in (ORACLE, BAYES)
    )
    for name, found, dashes in (("oracle's mean", oracle, (4, 3)), ("Bayes accuracy", bayes or best, (1, 1.5))):
        known = [(places.index(place), level) for place, level in found.items() if place in places]
        if known:
            x, y = (np.array(values, dtype=np.float64) for values in zip(*known, strict=True))
            axes.hlines(y, x - 0.46, x + 0.46, color=INK, linewidth=1.2, linestyle=(0, dashes), label=name, zorder=1)
