"""How training went: the losses over the rounds, and the time they took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedvpa.core.errors import DataError
from fedvpa.evaluation.report.drawing import counted
from fedvpa.evaluation.report.style import COLOURS, FAINT, INK, light_frame, new_figure


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
        light_frame(axes)
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
