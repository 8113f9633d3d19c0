from dataclasses import replace

import numpy as np
import pytest
from matplotlib.container import BarContainer, ErrorbarContainer

from evaluation.policies import made_up, outcome
from fedvpa.core.errors import DataError
from fedvpa.evaluation.intervals import Bootstrap
from fedvpa.evaluation.report.policy_figures import pareto_figure, switching_figure, win_rate_figure
from fedvpa.evaluation.report.style import figure_bytes
from fedvpa.evaluation.switching import switching
from fedvpa.evaluation.win_rates import policy_comparison

pytestmark = pytest.mark.unit

BOOTSTRAP = Bootstrap(resamples=2000)


@pytest.fixture(scope="module")
def outcomes():
    return made_up(unseen=("fedvpa_gp",), prompts=37)


@pytest.fixture(scope="module")
def compared(outcomes):
    return policy_comparison(outcomes, {}, bootstrap=BOOTSTRAP).to_dict()


def ends(container):
    """(low, high) of a vertical interval."""
    return container[2][-1].get_segments()[0][:, 1]


def overlaps(figure):
    """Pairs of texts that are drawn over each other."""
    figure.canvas.draw()
    (axes,) = figure.axes
    (legend,) = figure.legends
    texts = [*axes.texts, axes.xaxis.label, axes.yaxis.label, *legend.get_texts()]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    assert all(figure.bbox.contains(*corner) for t in texts for corner in t.get_window_extent().corners())
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text().strip()]
    return [(a, b) for i, (a, box) in enumerate(boxes) for b, other in boxes[i + 1 :] if box.overlaps(other)]


def test_every_win_rate_is_a_bar_with_its_interval(compared):
    axes = win_rate_figure(compared, 7).axes[0]
    rows = compared["policy_summary"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["global", "fedvpa_gp", "fedvpl", "oracle"]
    bars = [bar for c in axes.containers if isinstance(c, BarContainer) for bar in c]
    expected = [row["preferences"][name]["win_rate"] for name in ("harmless", "helpful") for row in rows]
    assert [bar.get_height() for bar in bars] == pytest.approx(expected)
    marks = [ends(c) for c in axes.containers if isinstance(c, ErrorbarContainer)]
    blocks = [block for row in rows for block in (row, row["unseen"]) if block is not None]
    for name in ("harmless", "helpful"):
        for block in blocks:
            cell = block["preferences"][name]
            assert any(mark == pytest.approx(cell["ci95"]) for mark in marks)
    assert len(marks) == 2 * len(blocks)
    assert 0.5 in [line.get_ydata()[0] for line in axes.lines if line.get_label() == "as good as the base policy"]
    assert "N = 7 clients, 2 seeds, 37 unseen prompts" in axes.texts[-1].get_text()
    assert {text.get_text() for text in axes.texts} >= {f"{value:.0%}" for value in expected}


def test_the_plane_shows_gains_with_the_base_at_its_origin(compared):
    figure = pareto_figure(compared, 7)
    axes = figure.axes[0]
    assert axes.get_title(loc="left").strip() == "Utility gained on harmless and on helpful"
    shown = {c.get_label(): c for c in axes.containers}
    assert set(shown) == {"global", "fedvpa_gp", "fedvpa_gp, unseen users", "fedvpl", "oracle"}
    for row in compared["policy_summary"]:
        line, _, bars = shown[row["method"]]
        across, up = row["preferences"]["harmless"], row["preferences"]["helpful"]
        assert (line.get_xdata()[0], line.get_ydata()[0]) == pytest.approx((across["utility_gain"], up["utility_gain"]))
        assert bars[0].get_segments()[0][:, 0] == pytest.approx(across["utility_gain_ci95"])
        assert bars[1].get_segments()[0][:, 1] == pytest.approx(up["utility_gain_ci95"])
    (base,) = [c for c in axes.collections if c.get_label() == "base policy"]
    assert np.asarray(base.get_offsets()).tolist() == [[0, 0]]


def test_of_three_preferences_the_plane_shows_two_and_says_so(outcomes):
    third = [replace(o, preference="terse") for o in outcomes if o.preference == "helpful"]
    figure = pareto_figure(policy_comparison([*outcomes, *third], {}, bootstrap=BOOTSTRAP).to_dict(), 7)
    assert "the first two of 3 preferences" in figure.axes[0].get_title(loc="left")
    assert "helpful" in figure.axes[0].get_ylabel()


@pytest.fixture(scope="module")
def switched():
    rng = np.random.default_rng(0)
    return switching(
        {
            step: [
                outcome(prompt=f"p{n}", preference=name, utility=sign * step**2 + rng.normal(0, 0.2))
                for name, sign in (("helpful", 1), ("harmless", -1))
                for n in range(23)
            ]
            for step in (0.0, 0.2, 0.4, 0.7, 1.0)
        },
        bootstrap=BOOTSTRAP,
    ).to_dict()


def test_the_switching_curve_has_a_band_per_preference(switched):
    axes = switching_figure(switched).axes[0]
    for name, line, band in zip(switched["preferences"], axes.lines, axes.collections, strict=True):
        found = switched["preferences"][name]
        assert line.get_label().startswith(f"{name} utility, {found['direction']}")
        assert line.get_ydata().tolist() == found["utility"]
        assert line.get_xdata().tolist() == switched["steps"]
        corners = {(round(x, 9), round(y, 9)) for x, y in band.get_paths()[0].vertices}
        for step, interval in zip(switched["steps"], found["ci95"], strict=True):
            assert {(round(step, 9), round(end, 9)) for end in interval} <= corners
    assert axes.get_xlabel() == "share of the way from harmless to helpful"
    assert "fedvpa_gp, N = 7 clients, 1 seed" in axes.texts[0].get_text()


def test_a_curve_without_utilities_shows_win_rates_beside_the_line_of_chance(switched):
    rates = {"harmless": [0.9, 0.5, 0.2, 0.1, 0.1], "helpful": [0.1, 0.3, 0.4, 0.8, 1.0]}
    steps = len(switched["steps"])
    judged = {
        name: found | {"utility": None, "win_rates": rates[name][:steps]}
        for name, found in switched["preferences"].items()
    }
    axes = switching_figure(switched | {"measure": "win_rate", "preferences": judged}).axes[0]
    for name, line in zip(judged, axes.lines, strict=False):
        assert line.get_label().startswith(f"{name} win rate, ")
        assert list(line.get_ydata()) == rates[name][:steps]
    assert [list(line.get_ydata()) for line in axes.lines[len(judged) :]] == [[0.5, 0.5]]
    assert axes.get_ylim() == (0, 1)
    assert axes.get_ylabel() == "answers preferred to the base policy's"


def test_a_curve_that_is_not_monotone_is_called_so(switched):
    changed = switched | {"preferences": {"helpful": switched["preferences"]["helpful"] | {"monotone": False}}}
    assert switching_figure(changed).axes[0].lines[0].get_label().endswith("(not monotone)")


@pytest.mark.parametrize("methods", [("fedvpa_gp",), ("global", "fedvpl", "fedvpa_gp", "oracle")])
def test_no_text_lies_on_another(outcomes, switched, methods):
    some = policy_comparison([o for o in outcomes if o.method in methods], {}, bootstrap=BOOTSTRAP).to_dict()
    for figure in (
        win_rate_figure(some, 7),
        pareto_figure(some, 7),
        switching_figure(switched),
    ):
        assert overlaps(figure) == []
        assert figure_bytes(figure, "svg").startswith(b"<?xml")


def test_what_cannot_be_drawn_is_refused(compared, outcomes):
    with pytest.raises(DataError, match="no win rate at N = 5"):
        win_rate_figure(compared, 5)
    one = policy_comparison([o for o in outcomes if o.preference == "helpful"], {}, bootstrap=BOOTSTRAP).to_dict()
    with pytest.raises(DataError, match="1 preference with utilities"):
        pareto_figure(one, 7)
