"""One look for every figure, without touching matplotlib's global state.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which stay apart under the common kinds of colour
blindness; every series has its own marker as well, so that no figure depends on colour.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure

from fedvpa.core.errors import ConfigError
from fedvpa.core.files import replacing

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D1F", "#5B4A99")

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")

INK, FAINT, GRID = "#22262B", "#5F6871", "#E3E6E9"

YARDSTICK_STYLES: Mapping[str, tuple[str, str]] = {
    "global": ("#8A9199", "v"),
    "local": ("#56B4E9", "D"),
    "informed": ("#8C6D1F", "P"),
    "oracle": ("#22262B", "*"),
    "bayes": ("#5B4A99", "X"),
    "fedeb": ("#0072B2", "o"),
    "fedvpa_gp": ("#CC79A7", "h"),
    "fedvpl": ("#E69F00", "s"),
    "fedem": ("#009E73", "^"),
}
"""Colour and marker of the methods that every figure shows, the same in all of them."""

MIME = {"png": "image/png", "svg": "image/svg+xml"}

PNG_DPI = 160


def series_styles(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker per name: the fixed ones first, the others from what is left of the palette."""
    taken = {YARDSTICK_STYLES[name][0] for name in names if name in YARDSTICK_STYLES}
    free = [pair for pair in zip(COLOURS, MARKERS, strict=True) if pair[0] not in taken] or [(INK, "o")]
    others = [name for name in names if name not in YARDSTICK_STYLES]
    chosen = {name: free[position % len(free)] for position, name in enumerate(others)}
    return {name: YARDSTICK_STYLES.get(name) or chosen[name] for name in names}


def new_figure(width: float = 7.2, height: float = 4.4) -> Figure:
    """An empty figure of the given size in inches, on its own Agg canvas."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def label_axes(axes: Axes, *, title: str, note: str, x: str, y: str) -> None:
    """Title, a smaller line that says what the marks are, axis labels with units, and a quiet frame."""
    axes.set_title(f"{title}\n", loc="left", fontsize=12, fontweight="bold", color=INK)
    axes.text(0, 1.02, note, transform=axes.transAxes, fontsize=8.5, color=FAINT, va="bottom")
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    light_frame(axes)


def light_frame(axes: Axes) -> None:
    """A light grid behind the marks, and only the left and bottom spines."""
    axes.tick_params(labelsize=9, colors=FAINT, labelcolor=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#B6BCC2")


def legend_below(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """The legend of ``axes`` under the whole figure, where it hides nothing."""
    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    # Stable: what was measured comes first, in its order, then the lines to compare with.
    entries.sort(key=lambda entry: not isinstance(entry[0], (BarContainer, ErrorbarContainer, PathCollection)))
    labels = [label for _, label in entries]
    figure.legend(
        [handle for handle, _ in entries],
        labels,
        loc="outside lower center",
        ncols=min(columns, len(labels)),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as ``png`` or ``svg``; the same figure always gives the same bytes.

    Raises:
        ConfigError: For another kind.
    """
    if kind not in MIME:
        raise ConfigError(f"figures cannot be saved as {kind!r}.", fix=f"Known: {', '.join(MIME)}.")
    page = io.BytesIO()
    options: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": PNG_DPI}
    with matplotlib.rc_context({"svg.hashsalt": "fedvpa"}):
        figure.savefig(page, format=kind, **options)
    return page.getvalue()


def figure_uri(figure: Figure, kind: str = "svg") -> str:
    """The figure as a data URI, to embed in HTML."""
    return f"data:{MIME.get(kind, '')};base64,{base64.b64encode(figure_bytes(figure, kind)).decode()}"


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure to ``path``, atomically, in the format of its suffix (.png or .svg).

    Raises:
        ConfigError: For another suffix.
    """
    content = figure_bytes(figure, path.suffix.lower().lstrip("."))
    with replacing(path) as temporary:
        temporary.write_bytes(content)
