import numpy as np
import pytest

from fedvpa.evaluation.report.latent_figure import latent_figure
from fedvpa.evaluation.report.style import figure_bytes

pytestmark = pytest.mark.unit


def test_two_prototypes_span_the_latent_map():
    rng = np.random.default_rng(0)
    prototypes = rng.normal(size=(2, 7))
    means = np.concatenate([prototypes, rng.normal(size=(11, 7))])
    axes = latent_figure(means, ["a", "b"] * 6 + ["a"], prototypes).axes[0]
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
    axes = latent_figure(means).axes[0]
    (points,) = (np.asarray(c.get_offsets()) for c in axes.collections)
    assert np.abs(points[:, 0]) == pytest.approx(np.abs(means[:, 3]), abs=0.1)
    share = np.sort(np.linalg.eigvalsh(np.cov(means.T)))[::-1] / np.trace(np.cov(means.T))
    assert f"({share[0]:.0%} of variance)" in axes.get_xlabel()
    assert f"({share[1]:.0%} of variance)" in axes.get_ylabel()


def test_degenerate_maps_are_drawn():
    parallel = np.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    for means, prototypes in ((np.zeros((3, 5)), None), (np.ones((3, 1)), None), (np.eye(3), parallel)):
        figure_bytes(latent_figure(means, None, prototypes), "svg")


def test_opposite_prototypes_lie_on_a_line_and_clients_are_drawn_over_them():
    prototypes = np.array([[1.0, 0.0, 1e-9], [-1.0, 1e-9, 0.0]])
    means = np.concatenate([prototypes, [[1.0, 0.2, 0.0], [-1.0, -0.2, 0.0]]])
    axes = latent_figure(means, None, prototypes).axes[0]
    clients, stars = axes.collections
    assert clients.get_zorder() > stars.get_zorder()
    assert "principal component 1" in axes.get_xlabel()
    assert np.abs(np.asarray(stars.get_offsets())[:, 0]) == pytest.approx([0.98, 0.98], abs=0.02)
