"""The plane in which z is drawn."""

import numpy as np
import pytest

from fedvpa.serving.latent_map import latent_map

pytestmark = pytest.mark.unit


def placed(map_, points):
    return (np.asarray(points) - map_.centre) @ np.asarray(map_.axes).T


def test_distances_of_three_prototypes_are_kept_up_to_scale_and_they_fill_the_map():
    points = np.random.default_rng(0).normal(size=(3, 7))
    there = placed(latent_map(points.tolist()), points)
    true = np.linalg.norm(points[:, None] - points[None], axis=-1)
    drawn = np.linalg.norm(there[:, None] - there[None], axis=-1)
    ratio = drawn[np.triu_indices(3, 1)] / true[np.triu_indices(3, 1)]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
    assert np.abs(there).max() == pytest.approx(1.0)


def test_two_prototypes_lie_on_one_axis_and_the_other_is_orthogonal_and_as_long():
    points = np.array([[0.5, -1.0, 2.0], [-0.5, 3.0, 1.0]])
    found = latent_map(points.tolist())
    np.testing.assert_allclose(placed(found, points)[:, 1], 0.0, atol=1e-12)
    np.testing.assert_allclose(np.abs(placed(found, points)[:, 0]), 1.0)
    first, second = np.asarray(found.axes)
    assert first @ second == pytest.approx(0.0, abs=1e-12)
    assert np.linalg.norm(first) == pytest.approx(np.linalg.norm(second))


def test_prototypes_are_called_by_the_groups_that_have_their_z():
    points = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
    found = latent_map(points, {"helpful": [1.0, 0.0], "kind": [1.0, 0.0], "harmless": [0.0, 1.0], "other": [9.0, 9.0]})
    assert [one.name for one in found.prototypes] == ["helpful, kind", "harmless", "prototype 2"]


@pytest.mark.parametrize("points", [[], [[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]], [[1.0], [2.0]]])
def test_what_spans_no_plane_has_no_map(points):
    assert latent_map(points) is None
