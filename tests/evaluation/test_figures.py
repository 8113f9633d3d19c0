import base64

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.evaluation.comparison import comparison, few_shot_curve
from fedvpa.evaluation.report.page import figures, style
from fedvpa.evaluation.statistics import Bootstrap

pytestmark = pytest.mark.unit

BOOTSTRAP = Bootstrap(resamples=2000)


@pytest.fixture(scope="module")
def compared(make_scores):
    return comparison(make_scores(sizes=(5, 11), seeds=(0, 1, 2)), {}, BOOTSTRAP)


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
    axes = figures.accuracy_figure(compared, 11).axes[0]
    shown = drawn(axes)
    rows = [row for row in compared["summary"] if row["n_clients"] == 11]
    assert set(shown) == {row["method"] for row in rows}
    for row in rows:
        expected = [(value["mean"], *value["ci95"]) for value in (row, *row["groups"].values())]
        assert np.array(shown[row["method"]]) == pytest.approx(np.array(expected))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["all clients", "harmless", "helpful"]
    assert "N = 11 clients, 3 seeds" in axes.texts[0].get_text()


def test_the_accuracy_figure_draws_the_oracle_and_the_bayes_line(compared):
    axes = figures.accuracy_figure(compared, 5, {"helpful": 0.9, figures.ALL_CLIENTS: 0.91}).axes[0]
    lines = {c.get_label(): c for c in axes.collections if not c.get_label().startswith("_")}
    assert all(isinstance(line, LineCollection) for line in lines.values())
    assert sorted(s[0, 1] for s in lines["Bayes accuracy"].get_segments()) == [0.9, 0.91]
    oracle = next(row for row in compared["summary"] if row["n_clients"] == 5 and row["method"] == "oracle")
    assert lines["oracle's mean"].get_segments()[0][0, 1] == pytest.approx(oracle["mean"])


def test_the_gap_figure_leaves_out_what_is_0_and_1_by_definition(compared):
    shown = drawn(figures.gap_figure(compared).axes[0])
    assert set(shown) == {"local", "fedvpl", "fedvpa_gp"}
    rows = [row for row in compared["summary"] if row["method"] == "fedvpl"]
    expected = [(row["gap_closed"], *row["gap_closed_ci95"]) for row in rows]
    assert np.array(shown["fedvpl"]) == pytest.approx(np.array(expected))


def test_two_prototypes_span_the_latent_map():
    rng = np.random.default_rng(0)
    prototypes = rng.normal(size=(2, 7))
    means = np.concatenate([prototypes, rng.normal(size=(11, 7))])
    axes = figures.latent_figure(means, ["a", "b"] * 6 + ["a"], prototypes).axes[0]
    shown = {c.get_label(): np.asarray(c.get_offsets()) for c in axes.collections}
    assert set(shown) == {"a (n = 7)", "b (n = 6)", "prototype"}
    stars = shown["prototype"]
    assert stars[0] == pytest.approx([np.linalg.norm(prototypes[0]), 0])
    # The plane holds both prototypes, so their lengths and their angle survive the projection.
    assert stars @ stars.T == pytest.approx(prototypes @ prototypes.T)
    assert shown["a (n = 7)"][0] == pytest.approx(stars[0])
    assert "13 clients in 7 dimensions" in axes.texts[-1].get_text()


def test_other_maps_show_the_principal_components():
    means = np.zeros((13, 5))
    means[:, 3], means[:, 1] = np.linspace(-6, 6, 13), np.tile([1, -1], 7)[:13]
    axes = figures.latent_figure(means).axes[0]
    (points,) = (np.asarray(c.get_offsets()) for c in axes.collections)
    assert np.abs(points[:, 0]) == pytest.approx(np.abs(means[:, 3]), abs=0.1)
    share = np.sort(np.linalg.eigvalsh(np.cov(means.T)))[::-1] / np.trace(np.cov(means.T))
    assert f"({share[0]:.0%} of variance)" in axes.get_xlabel()
    assert f"({share[1]:.0%} of variance)" in axes.get_ylabel()


def test_degenerate_maps_are_drawn():
    parallel = np.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    for means, prototypes in ((np.zeros((3, 5)), None), (np.ones((3, 1)), None), (np.eye(3), parallel)):
        style.figure_bytes(figures.latent_figure(means, None, prototypes), "svg")


def test_the_few_shot_figure_follows_the_curve(make_scores):
    levels = {"fedvpl": (0.6, 0.6), "fedvpa_gp": (0.7, 0.7)}
    curve = few_shot_curve({k: make_scores(levels=levels, unseen=7, seeds=(k, k + 1)) for k in (16, 1, 4)}, BOOTSTRAP)
    axes = figures.few_shot_figure(curve, {"oracle": 0.8}).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "4", "16"]
    expected = [(p["mean"], *p["ci95"]) for p in curve if p["method"] == "fedvpa_gp"]
    assert np.array(drawn(axes)["fedvpa_gp"]) == pytest.approx(np.array(expected))
    assert 0.8 in [line.get_ydata()[0] for line in axes.lines if line.get_label() == "oracle"]
    assert "14 others" in axes.texts[0].get_text()


def test_the_training_figure_has_a_panel_per_loss_and_adds_up_the_time():
    figure = figures.training_figure([1, 2, 3], {"kl": [3.0, 2.0, 1.0]}, [0.5, 0.25, 0.25])
    kl, time = figure.axes
    assert kl.lines[0].get_ydata().tolist() == [3.0, 2.0, 1.0]
    assert time.lines[0].get_ydata().tolist() == [0.5, 0.75, 1.0]
    assert figure.get_suptitle() == "Training: 3 rounds, 1.0 s"


def test_what_cannot_be_drawn_is_refused(compared, make_scores):
    with pytest.raises(DataError, match="N = 7"):
        figures.accuracy_figure(compared, 7)
    alone = comparison(make_scores(levels={"local": (0.6, 0.7)}), {}, BOOTSTRAP)
    with pytest.raises(DataError, match="no gap"):
        figures.gap_figure(alone)
    with pytest.raises(DataError, match="one number of clients"):
        figures.few_shot_figure([])
    with pytest.raises(DataError, match="kl has 1 values for 2 rounds"):
        figures.training_figure([1, 2], {"kl": [1.0]}, [1.0, 1.0])


def test_every_series_has_its_own_colour_and_marker_and_keeps_it():
    names = ["global", "local", "fedvpa_gp", "fedvpl", "oracle", "fedbiscuit", "lore", "mine"]
    styles = style.series_styles(names)
    assert len({colour for colour, _ in styles.values()}) == len(names)
    assert styles["fedvpa_gp"] == style.series_styles(["fedvpa_gp"])["fedvpa_gp"]


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_saving_gives_the_same_bytes_each_time_and_embeds_them(compared, tmp_path, suffix, start):
    path = tmp_path / f"gap.{suffix}"
    style.save_figure(figures.gap_figure(compared), path)
    content = path.read_bytes()
    assert content.startswith(start)
    again = figures.gap_figure(compared)
    assert style.figure_bytes(again, suffix) == content
    assert base64.b64decode(style.figure_uri(again, suffix).partition(",")[2]) == content


def test_an_unknown_format_is_refused_and_nothing_is_written(compared, tmp_path):
    with pytest.raises(ConfigError, match="'gif'"):
        style.save_figure(figures.gap_figure(compared), tmp_path / "gap.gif")
    assert list(tmp_path.iterdir()) == []
