"""A map of the clients' posterior means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedvpa.evaluation.report.drawing import STAR, counted
from fedvpa.evaluation.report.style import COLOURS, GRID, INK, MARKERS, label_axes, legend_below, new_figure


def latent_figure(
    means: Float[np.ndarray, "n k"],
    groups: Sequence[str] | None = None,
    prototypes: Float[np.ndarray, "m k"] | None = None,
) -> Figure:
    """Where the clients' posterior means lie, coloured by true group, with the prototypes as stars.

    Two prototypes span the plane shown, unless they lie nearly on one line through the origin; otherwise it is that of
    the means' first two principal components. Clients are drawn over prototypes, on which they may sit.

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
    draw_groups(axes, clients, labels, size=34, numbers=True)
    if prototypes is not None:
        stars = (prototypes - origin) @ basis
        axes.scatter(
            stars[:, 0],
            stars[:, 1],
            s=260,
            marker=STAR,
            color=INK,
            edgecolors="white",
            linewidths=1.2,
            label="prototype",
            zorder=1.5,
        )
        for number, star in enumerate(stars, start=1):
            axes.annotate(str(number), star, xytext=(9, 7), textcoords="offset points", fontsize=9, color=INK)
    axes.set_aspect("equal", adjustable="datalim")
    label_axes(
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


def draw_groups(
    axes: Axes, points: NDArray[np.float64], labels: NDArray[np.str_], *, size: float, numbers: bool = False
) -> None:
    """Points [n, 2] in the colour and with the marker of their group.

    Args:
        axes: Where to draw.
        points: The points.
        labels: The group of each.
        size: Of a marker.
        numbers: Whether the legend says how many points a group has.
    """
    for position, name in enumerate(sorted(set(labels.tolist()))):
        chosen = points[labels == name]
        axes.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=size,
            alpha=0.75,
            color=COLOURS[position % len(COLOURS)],
            marker=MARKERS[position % len(MARKERS)],
            edgecolors="white",
            linewidths=0.6,
            zorder=3,
            label=f"{name} (n = {len(chosen)})" if numbers else name,
        )


def principal_plane(centred: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The first two principal components of centred points [n, k] as columns [k, 2], and their shares of the variance.

    A component that the points do not have is zero.
    """
    _, scale, directions = np.linalg.svd(centred, full_matrices=False)
    basis, share, found = np.zeros((centred.shape[1], 2)), np.zeros(2), min(2, len(directions))
    basis[:, :found] = directions[:found].T
    share[:found] = scale[:found] ** 2 / max(float((scale**2).sum()), np.finfo(np.float64).tiny)
    return basis, share


STRAIGHT = 0.95
"""Two prototypes lie nearly on one line where the size of their cosine exceeds this. Chosen by us."""


def _span_a_plane(prototypes: NDArray[np.float64]) -> bool:
    """Whether two prototypes point in clearly different directions, neither along the other nor against it."""
    lengths = np.linalg.norm(prototypes, axis=1)
    return bool(lengths.min() > 0 and abs(prototypes[0] @ prototypes[1]) < STRAIGHT * lengths.prod())


def _plane(
    means: NDArray[np.float64], prototypes: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, str]]:
    """An orthonormal basis [k, 2], its origin [k], and the names of its axes."""
    size = means.shape[1]
    if prototypes is not None and len(prototypes) == 2 and _span_a_plane(prototypes):
        first = prototypes[0] / np.linalg.norm(prototypes[0])
        rest = prototypes[1] - (prototypes[1] @ first) * first
        basis = np.stack([first, rest / np.linalg.norm(rest)], axis=1)
        return basis, np.zeros(size), ("along prototype 1", "along prototype 2, less its share of prototype 1")
    origin = means.mean(axis=0)
    basis, share = principal_plane(means - origin)
    return (
        basis,
        origin,
        (
            f"principal component 1 ({share[0]:.0%} of variance)",
            f"principal component 2 ({share[1]:.0%} of variance)",
        ),
    )
