import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer

from fedvpa.core.errors import DataError
from fedvpa.evaluation.accuracy_tables import comparison, few_shot_curve
from fedvpa.evaluation.intervals import Bootstrap
from fedvpa.evaluation.report.accuracy_figures import ALL_CLIENTS, accuracy_figure, few_shot_figure, gap_figure

pytestmark = pytest.mark.unit

BOOTSTRAP = Bootstrap(resamples=2000)


@pytest.fixture(scope="module")
def compared(make_scores):
    return comparison(make_scores(sizes=(5, 11), seeds=(0, 1, 2)), {}, BOOTSTRAP).to_dict()


def drawn(axes):
    """Label → [(value, low, high)] of every point with error bars."""
    points, label = {}, None
    for container in axes.containers:
        assert isinstance(container, ErrorbarContainer)
        label = container.get_label() if not container.get_label().startswith("_") else label
        (line, _, bars) = container
        low, high = bars[0].get_segments()[0][:, 1] if bars else (None, None)
        points.setdefault(label, []).append((line.get_ydata()[0], low, high))
    return points


def test_the_accuracy_figure_shows_every_mean_with_its_interval(compared):
    axes = accuracy_figure(compared, 11).axes[0]
    shown = drawn(axes)
    rows = [row for row in compared["summary"] if row["n_clients"] == 11]
    assert set(shown) == {row["method"] for row in rows}
    for row in rows:
        expected = [(value["mean"], *value["ci95"]) for value in (row, *row["groups"].values())]
        assert np.array(shown[row["method"]]) == pytest.approx(np.array(expected))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["all clients", "harmless", "helpful"]
    assert "N = 11 clients, 3 seeds" in axes.texts[0].get_text()


def test_the_accuracy_figure_draws_the_oracle_and_the_bayes_line(compared):
    axes = accuracy_figure(compared, 5, {"helpful": 0.9, ALL_CLIENTS: 0.91}).axes[0]
    lines = {c.get_label(): c for c in axes.collections if not c.get_label().startswith("_")}
    assert all(isinstance(line, LineCollection) for line in lines.values())
    assert sorted(s[0, 1] for s in lines["Bayes accuracy"].get_segments()) == [0.9, 0.91]
    oracle = next(row for row in compared["summary"] if row["n_clients"] == 5 and row["method"] == "oracle")
    assert lines["oracle's mean"].get_segments()[0][0, 1] == pytest.approx(oracle["mean"])


def test_the_row_bayes_is_a_line_and_no_method(compared):
    (oracle,) = [row for row in compared["summary"] if row["n_clients"] == 5 and row["method"] == "oracle"]
    known = compared | {"summary": [*compared["summary"], oracle | {"method": "bayes", "mean": 0.93, "groups": {}}]}
    axes = accuracy_figure(known, 5).axes[0]
    assert "bayes" not in drawn(axes)
    lines = {c.get_label(): c for c in axes.collections}
    assert [s[0, 1] for s in lines["Bayes accuracy"].get_segments()] == [0.93]
    assert "bayes" not in drawn(gap_figure(known).axes[0])


def test_the_gap_figure_leaves_out_what_is_0_and_1_by_definition(compared):
    shown = drawn(gap_figure(compared).axes[0])
    assert set(shown) == {"local", "fedvpl", "fedvpa_gp"}
    rows = [row for row in compared["summary"] if row["method"] == "fedvpl"]
    expected = [(row["gap_closed"], *row["gap_closed_ci95"]) for row in rows]
    assert np.array(shown["fedvpl"]) == pytest.approx(np.array(expected))


def test_the_few_shot_figure_follows_the_curve(make_scores):
    levels = {"fedvpl": (0.6, 0.6), "fedvpa_gp": (0.7, 0.7)}
    curve = few_shot_curve({k: make_scores(levels=levels, unseen=7, seeds=(k, k + 1)) for k in (16, 1, 4)}, BOOTSTRAP)
    axes = few_shot_figure(curve, {"oracle": 0.8}).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "4", "16"]
    expected = [(p.mean, *p.ci95) for p in curve if p.method == "fedvpa_gp"]
    assert np.array(drawn(axes)["fedvpa_gp"]) == pytest.approx(np.array(expected))
    assert 0.8 in [line.get_ydata()[0] for line in axes.lines if line.get_label() == "oracle"]
    assert "14 others" in axes.texts[0].get_text()


def test_what_cannot_be_drawn_is_refused(compared, make_scores):
    with pytest.raises(DataError, match="N = 7"):
        accuracy_figure(compared, 7)
    alone = comparison(make_scores(levels={"local": (0.6, 0.7)}), {}, BOOTSTRAP).to_dict()
    with pytest.raises(DataError, match="no gap"):
        gap_figure(alone)
    with pytest.raises(DataError, match="one number of clients"):
        few_shot_figure([])
