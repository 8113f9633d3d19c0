"""The figures of a report. Each takes plain numbers, says in words what its marks are, and returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fedvpa.core.errors import DataError
from fedvpa.evaluation.report.style import (
    COLOURS,
    FAINT,
    GRID,
    INK,
    MARKERS,
    dress,
    error_bars,
    legend_below,
    new_figure,
    quiet,
    series_styles,
)
from fedvpa.evaluation.summaries import BAYES, GLOBAL, ORACLE, method_order

ALL_CLIENTS = "all clients"

INTERVAL_NOTE = "95% interval over clients"

Row = Mapping[str, Any]


def accuracy_figure(compared: Mapping[str, Any], n_clients: int, bayes: Mapping[str, float] | None = None) -> Figure:
    """Accuracy of every method, over all clients and by true group, beside the oracle's and the Bayes line.

    Args:
        compared: What :func:`fedvpa.evaluation.accuracy_tables.comparison` returned.
        n_clients: Which number of clients to show.
        bayes: The best accuracy that any method could reach, by group; ``ALL_CLIENTS`` for all of them.

    Raises:
        DataError: If nothing was scored at that number of clients.
    """
    rows = [row for row in compared["summary"] if row["n_clients"] == n_clients and row["mean"] is not None]
    if not rows:
        raise DataError(f"there is no accuracy at N = {n_clients} to draw.")
    groups = sorted({name for row in rows for name in row["groups"]})
    places = [ALL_CLIENTS, *groups]
    figure = new_figure(width=max(7.2, 2.0 + 1.7 * len(places)))
    axes = figure.subplots()
    methods = [row["method"] for row in rows]
    styles = series_styles(methods)
    for row, shift in zip(rows, _dodge(len(rows)), strict=True):
        found = [(ALL_CLIENTS, row), *row["groups"].items()]
        points = [(places.index(name) + shift, value["mean"], value["ci95"]) for name, value in found]
        _series(axes, points, row["method"], styles[row["method"]])
    _yardstick_lines(axes, places, rows, bayes or {})
    axes.set_xticks(range(len(places)), places)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.5, len(places) - 0.5)
    seeds = max(len(row["seeds"]) for row in rows)
    dress(
        axes,
        title="Accuracy by method and group",
        note=f"N = {n_clients} clients, {counted(seeds, 'seed')}; mean over clients with its {INTERVAL_NOTE}",
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
    for method, shift in zip(methods, _dodge(len(methods)), strict=True):
        found = [row for row in rows if row["method"] == method]
        points = [
            (sizes.index(row["n_clients"]) + shift / 3, row["gap_closed"], row["gap_closed_ci95"]) for row in found
        ]
        _series(axes, points, method, styles[method], line=True)
    for level, name in ((0.0, "global"), (1.0, "oracle")):
        axes.axhline(level, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
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
    seeds = max(len(row["seeds"]) for row in rows)
    dress(
        axes,
        title="Gap closed, from one global model to the oracle",
        note=f"(method − global) / (oracle − global), {counted(seeds, 'seed')}, with its paired {INTERVAL_NOTE}",
        x="number of clients",
        y="gap closed",
    )
    legend_below(figure, axes)
    return figure


def latent_figure(
    means: Float[np.ndarray, "n k"],
    groups: Sequence[str] | None = None,
    prototypes: Float[np.ndarray, "m k"] | None = None,
) -> Figure:
    """Where the clients' posterior means lie, coloured by true group, with the prototypes as stars.

    Two prototypes span the plane shown; otherwise it is that of the means' first two principal components.

    Args:
        means: Posterior means.
        groups: True groups, where known.
        prototypes: The prototypes, where the method has any.
    """
    basis, origin, names = _plane(means, prototypes)
    figure = new_figure(6.4, 5.4)
    axes = figure.subplots()
    clients = (means - origin) @ basis
    labels = np.array(groups if groups is not None else ["clients"] * len(means))
    for position, name in enumerate(sorted(set(labels.tolist()))):
        chosen = clients[labels == name]
        axes.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=34,
            alpha=0.75,
            color=COLOURS[position % len(COLOURS)],
            marker=MARKERS[position % len(MARKERS)],
            edgecolors="white",
            linewidths=0.6,
            label=f"{name} (n = {len(chosen)})",
        )
    if prototypes is not None:
        stars = (prototypes - origin) @ basis
        axes.scatter(
            stars[:, 0],
            stars[:, 1],
            s=260,
            marker="*",
            color=INK,
            edgecolors="white",
            linewidths=1.2,
            label="prototype",
            zorder=4,
        )
        for number, star in enumerate(stars, start=1):
            axes.annotate(str(number), star, xytext=(9, 7), textcoords="offset points", fontsize=9, color=INK)
    axes.set_aspect("equal", adjustable="datalim")
    dress(
        axes,
        title="Latent map",
        note=f"posterior means of {counted(len(means), 'client')} in {means.shape[1]} dimensions, "
        "coloured by true group (never seen in training)",
        x=names[0],
        y=names[1],
    )
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    legend_below(figure, axes)
    return figure


def few_shot_figure(curve: Sequence[Row], lines: Mapping[str, float] | None = None) -> Figure:
    """Accuracy on clients that training never saw, by the number of labelled pairs they give.

    Args:
        curve: What :func:`fedvpa.evaluation.accuracy_tables.few_shot_curve` returned, for one number of clients.
        lines: Levels to compare with, by name, e.g. the oracle's accuracy.

    Raises:
        DataError: For an empty curve or one that mixes numbers of clients.
    """
    sizes = sorted({point["n_clients"] for point in curve})
    if len(sizes) != 1:
        raise DataError(f"a few-shot figure shows one number of clients, not {sizes}.")
    methods = sorted({point["method"] for point in curve}, key=method_order)
    shots = sorted({point["context_pairs"] for point in curve})
    figure = new_figure()
    axes = figure.subplots()
    styles = series_styles(methods)
    for method, shift in zip(methods, _dodge(len(methods)), strict=True):
        points = [
            (shots.index(point["context_pairs"]) + shift / 3, point["mean"], point["ci95"])
            for point in curve
            if point["method"] == method
        ]
        _series(axes, points, method, styles[method], line=True)
    for (name, level), dashes in zip((lines or {}).items(), ((4, 3), (1, 2), (6, 2), (2, 4)) * 2, strict=False):
        axes.axhline(level, color=FAINT, linewidth=1.1, linestyle=(0, dashes), label=name, zorder=1)
    axes.set_xticks(range(len(shots)), [str(shot) for shot in shots])
    unseen = max(point["clients"] for point in curve)
    dress(
        axes,
        title="Unseen users: accuracy by pairs given as context",
        note=f"trained on {sizes[0]} clients, tested on {unseen} others (unseen users × seeds); {INTERVAL_NOTE}",
        x="labelled context pairs per unseen user",
        y="other test pairs ordered as the user did",
    )
    legend_below(figure, axes)
    return figure


def training_figure(rounds: Sequence[int], losses: Mapping[str, Sequence[float]], seconds: Sequence[float]) -> Figure:
    """One panel per loss over the rounds, and one of the time they took.

    Args:
        rounds: Round numbers.
        losses: Name → the cohort's mean loss in each round.
        seconds: Wall-clock seconds of each round.

    Raises:
        DataError: If a series is not as long as the rounds.
    """
    series = {**losses, "time": np.cumsum(np.asarray(seconds, dtype=np.float64)).tolist()}
    for name, values in series.items():
        if len(values) != len(rounds):
            raise DataError(f"{name} has {len(values)} values for {len(rounds)} rounds.")
    columns = min(2, len(series))
    height = -(-len(series) // columns)
    figure = new_figure(7.2, 0.7 + 2.1 * height)
    panels = figure.subplots(height, columns, squeeze=False).ravel()
    for axes, (name, values) in zip(panels, series.items(), strict=False):
        colour = FAINT if name == "time" else COLOURS[0]
        axes.plot(rounds, values, color=colour, linewidth=1.6)
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold", color=INK)
        axes.set_ylabel(
            "seconds since the start" if name == "time" else "mean over the cohort", fontsize=8.5, color=INK
        )
        axes.set_xlabel("round", fontsize=8.5, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        quiet(axes)
    for axes in panels[len(series) :]:
        axes.set_visible(False)
    total = series["time"][-1] if rounds else 0.0
    figure.suptitle(
        f"Training: {counted(len(rounds), 'round')}, {total:.1f} s",
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
        color=INK,
    )
    return figure


def _series(
    axes: Axes,
    points: Sequence[tuple[float, float, Sequence[float] | None]],
    label: str,
    style: tuple[str, str],
    line: bool = False,
) -> None:
    """Points with error bars; one legend entry for all of them."""
    colour, marker = style
    if line:
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], color=colour, linewidth=1.5, alpha=0.6)
    for position, (x, value, interval) in enumerate(points):
        axes.errorbar(
            x,
            value,
            yerr=error_bars(interval, value),
            fmt=marker,
            color=colour,
            markersize=10 if marker == "*" else 6.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            elinewidth=1.5,
            capsize=2.5,
            label=label if position == 0 else None,
            zorder=3,
        )


def _yardstick_lines(axes: Axes, places: Sequence[str], rows: Sequence[Row], bayes: Mapping[str, float]) -> None:
    """The oracle's mean and the Bayes accuracy as short lines across each place."""
    oracle = next((row for row in rows if row["method"] == ORACLE), None)
    levels = (
        {}
        if oracle is None
        else {ALL_CLIENTS: oracle["mean"]} | {name: value["mean"] for name, value in oracle["groups"].items()}
    )
    for name, found, dashes in (("oracle's mean", levels, (4, 3)), ("Bayes accuracy", bayes, (1, 1.5))):
        known = [(places.index(place), level) for place, level in found.items() if place in places]
        if known:
            x, y = (np.array(values, dtype=np.float64) for values in zip(*known, strict=True))
            axes.hlines(y, x - 0.46, x + 0.46, color=INK, linewidth=1.2, linestyle=(0, dashes), label=name, zorder=1)


def _plane(
    means: NDArray[np.float64], prototypes: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, str]]:
    """An orthonormal basis [k, 2], its origin [k], and the names of its axes."""
    size = means.shape[1]
    if prototypes is not None and len(prototypes) == 2 and np.linalg.matrix_rank(prototypes) == 2:
        first = prototypes[0] / np.linalg.norm(prototypes[0])
        rest = prototypes[1] - (prototypes[1] @ first) * first
        basis = np.stack([first, rest / np.linalg.norm(rest)], axis=1)
        return basis, np.zeros(size), ("along prototype 1", "along prototype 2, less its share of prototype 1")
    origin = means.mean(axis=0)
    _, scale, directions = np.linalg.svd(means - origin, full_matrices=False)
    basis = np.zeros((size, 2))
    found = min(2, len(directions))
    basis[:, :found] = directions[:found].T
    share = np.zeros(2)
    share[:found] = scale[:found] ** 2 / max(float((scale**2).sum()), np.finfo(np.float64).tiny)
    return (
        basis,
        origin,
        (
            f"principal component 1 ({share[0]:.0%} of variance)",
            f"principal component 2 ({share[1]:.0%} of variance)",
        ),
    )


def _dodge(count: int) -> NDArray[np.float64]:
    """Small shifts that keep ``count`` series at one place apart."""
    return np.linspace(-0.3, 0.3, count) if count > 1 else np.zeros(1)


def counted(count: int, noun: str) -> str:
    """``1 seed``, ``5 seeds``, ``1,159 prompts``."""
    return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"
