"""The figure of fronts: what policies of several methods gain over the base policy under two objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from fedvpa.core.errors import DataError
from fedvpa.evaluation.report.drawing import Row, counted, gain_plane, interval_mark
from fedvpa.evaluation.report.style import GRID, label_axes, legend_below, series_styles


def front_figure(fronts: Sequence[Mapping[str, Any]]) -> Figure:
    """One line per method through its policies, in the order of their preferences; up and to the right is better.

    Args:
        fronts: What :func:`fedvpa.evaluation.fronts.summarise_front` returned of each method, as JSON. Of more than two
            objectives the first two are shown, and the title says so.

    Raises:
        DataError: If there is no front, or one of fewer than two objectives.
    """
    names = list(fronts[0]["objectives"]) if fronts else []
    if len(names) < 2:
        raise DataError(
            f"{counted(len(fronts), 'front')} under {counted(len(names), 'objective')} cannot span a plane.",
            fix="Give fronts under two objectives or more.",
        )
    across, up = names[:2]
    figure, axes = gain_plane(5.4)
    styles = series_styles([front["method"] for front in fronts])
    for front in fronts:
        _line(axes, front, across, up, styles[front["method"]])
    axes.margins(0.1)
    of_more = "" if len(names) == 2 else f", the first two of {len(names)} objectives"
    seeds, prompts = (max(front[key] for front in fronts) for key in ("seeds", "prompts"))
    label_axes(
        axes,
        title=f"Reward gained on {across} and on {up}{of_more}",
        note=f"{counted(seeds, 'seed')}, {counted(prompts, 'unseen prompt')}; 95% intervals of these trained policies",
        x=f"mean {across} reward above the base policy's",
        y=f"mean {up} reward above the base policy's",
    )
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    legend_below(figure, axes, columns=3)
    figure.legends[0].set_title("method: hypervolume over the base policy", FontProperties(size=9))
    return figure


def _line(axes: Axes, front: Row, across: str, up: str, style: tuple[str, str]) -> None:
    """A method's policies, with both of their intervals."""
    points = list(zip(_by_preference(front, 0, across), _by_preference(front, 1, up), strict=True))
    axes.plot([x["mean"] for x, _ in points], [y["mean"] for _, y in points], color=style[0], linewidth=1.5, alpha=0.6)
    for place, (x, y) in enumerate(points):
        label = f"{front['method']}: {front['hypervolume']['mean']:.2f}" if place == 0 else None
        interval_mark(
            axes,
            x["mean"],
            y["mean"],
            style,
            x_ends=x["ci95"],
            y_ends=y["ci95"],
            size=7,
            elinewidth=1.1,
            label=label,
            zorder=4,
        )


def _by_preference(front: Row, place: int, name: str) -> list[Row]:
    """The gains under one objective, in the order of the policies' weights of the first objective.

    A path is in the order of its own objective's weights.
    """
    path = front["objectives"][name]
    order = sorted(range(len(front["preferences"])), key=lambda row: front["preferences"][row][place])
    gains = dict(zip(order, path["gains"], strict=True))
    along = sorted(range(len(front["preferences"])), key=lambda row: front["preferences"][row][0])
    return [gains[row] for row in along]
