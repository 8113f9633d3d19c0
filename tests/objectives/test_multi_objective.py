"""The identities of FIRM's weights, the closed form beside the general solver, and FedCMOO's server."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from fedvpa.objectives.multi_objective import _several as several
from fedvpa.objectives.multi_objective import (
    common_scale,
    disagreement,
    fedcmoo_weights,
    gram,
    is_vertex,
    project_to_simplex,
    regularised_mgda,
)

pytestmark = pytest.mark.unit


def gradients(count: int, size: int = 7, seed: int = 0) -> Tensor:
    """Of quite different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.arange(1, count + 1, dtype=torch.float64)[:, None]
    return lengths * torch.randn(count, size, generator=generator, dtype=torch.float64)


def scaled(count: int, seed: int = 0) -> Tensor:
    return common_scale(gram(gradients(count, seed=seed)))


def even(count: int) -> Tensor:
    return torch.full((count,), 1 / count, dtype=torch.float64)


def preference(*shares: float) -> Tensor:
    return torch.tensor(shares, dtype=torch.float64)


def objective(matrix: Tensor, weights: Tensor, p: Tensor, rho: float) -> Tensor:
    quadratic = 0.5 * torch.einsum("...j,jk,...k->...", weights, matrix, weights)
    return quadratic + 0.5 * rho * (weights - p).square().sum(-1)


def grid(count: int, cells: int) -> Tensor:
    """All points of the simplex whose shares are multiples of 1/cells."""
    points = [row for row in itertools.product(range(cells + 1), repeat=count) if sum(row) == cells]
    return torch.tensor(points, dtype=torch.float64) / cells


def test_two_objectives_by_hand():
    # Lengths 1 and 2 at a right angle: G = diag(1, 4), Ĝ = diag(0.4, 1.6). ρ = 0: λ_1 = 1.6 / 2. ρ = 0.5, p_1 = 0.3:
    # (1.6 + 0.3) / (2 + 1).
    matrix = common_scale(gram(torch.tensor([[1.0, 0.0], [0.0, 2.0]])))
    torch.testing.assert_close(regularised_mgda(matrix, even(2), 0.0), preference(0.8, 0.2))
    torch.testing.assert_close(
        regularised_mgda(matrix, preference(0.3, 0.7), 0.5), preference(1.9 / 3, 1.1 / 3), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rho", [0.0, 0.1, 2.0])
def test_the_general_solver_is_the_closed_form_for_two(seed: int, rho: float):
    matrix, p = scaled(2, seed), preference(0.3, 0.7)
    torch.testing.assert_close(several(matrix, p, max(rho, 1e-10)), regularised_mgda(matrix, p, rho))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("rho", [0.0, 0.05, 1.0])
def test_no_point_of_a_fine_grid_is_better(count: int, rho: float):
    matrix = scaled(count, seed=count)
    p = torch.arange(1, count + 1, dtype=torch.float64) / (count * (count + 1) / 2)
    found = regularised_mgda(matrix, p, rho)
    assert bool((found >= 0).all())
    assert found.sum().item() == pytest.approx(1)
    points = grid(count, {2: 200, 3: 60, 4: 24}[count])
    assert objective(matrix, found, p, rho) <= objective(matrix, points, p, rho).min() + 1e-12


@pytest.mark.parametrize("count", [2, 3, 5])
def test_rho_0_is_mgda_no_objective_falls_along_its_direction(count: int):
    for seed in range(5):
        rows = gradients(count, seed=seed)
        weights = regularised_mgda(common_scale(gram(rows)), even(count), 0.0)
        direction = weights @ rows
        length = direction.square().sum()
        assert bool((rows @ direction >= length - 1e-6 * rows.square().sum()).all())


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_large_rho_gives_the_preference(count: int):
    p = torch.arange(1, count + 1, dtype=torch.float64) / (count * (count + 1) / 2)
    torch.testing.assert_close(regularised_mgda(scaled(count), p, 1e7), p, rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("rho", [0.05, 0.5, 5.0])
def test_weights_move_by_no_more_than_the_gram_matrix_over_rho(count: int, rho: float):
    for seed in range(6):
        one, other = scaled(count, seed), scaled(count, seed + 100)
        moved = (regularised_mgda(one, even(count), rho) - regularised_mgda(other, even(count), rho)).norm()
        assert moved <= torch.linalg.matrix_norm(one - other, 2) / rho + 1e-9


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("rho", [0.01, 0.3, 3.0])
def test_the_mixture_is_at_most_so_much_longer_than_the_shortest(count: int, rho: float):
    matrix = scaled(count, seed=9)
    weights, shortest = (regularised_mgda(matrix, even(count), value) for value in (rho, 0.0))
    assert weights @ matrix @ weights <= shortest @ matrix @ shortest + rho * (1 - 1 / count) + 1e-9


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("rho", [0.0, 0.2])
def test_equal_objectives_keep_the_preference(count: int, rho: float):
    rows = gradients(1).expand(count, -1)
    p = torch.arange(1, count + 1, dtype=torch.float64) / (count * (count + 1) / 2)
    torch.testing.assert_close(regularised_mgda(common_scale(gram(rows)), p, rho), p, rtol=0, atol=1e-6)


def test_gradients_of_zero_keep_the_preference():
    for count in (2, 3):
        weights = regularised_mgda(common_scale(gram(torch.zeros(count, 5))), even(count), 0.0)
        torch.testing.assert_close(weights, even(count), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rho", [0.1, 1.0])
def test_the_first_weight_grows_with_its_preference(seed: int, rho: float):
    shares = torch.linspace(0, 1, 11, dtype=torch.float64)
    found = [regularised_mgda(scaled(2, seed), torch.stack([s, 1 - s]), rho)[0].item() for s in shares]
    assert found == sorted(found)
    assert found[-1] > found[0]


def test_unequal_lengths_do_not_give_a_half_and_clients_differ():
    first, second = (regularised_mgda(scaled(2, seed), even(2), 0.0) for seed in (1, 3))
    assert abs(first[0].item() - 0.5) > 0.05
    assert disagreement(torch.stack([first, second])) > 0.01


def test_the_common_scale_forgets_units_and_keeps_ratios():
    rows = gradients(3)
    torch.testing.assert_close(common_scale(gram(1e-3 * rows)), common_scale(gram(rows)))
    assert common_scale(gram(rows)).trace().item() == pytest.approx(3)
    lengths = rows.norm(dim=1)
    unscaled = common_scale(gram(rows)).diagonal().sqrt()
    torch.testing.assert_close(unscaled / unscaled[0], lengths / lengths[0])


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_projection_is_the_nearest_point(count: int):
    generator = torch.Generator().manual_seed(count)
    for _ in range(5):
        point = torch.randn(count, generator=generator, dtype=torch.float64)
        found = project_to_simplex(point)
        assert found.sum().item() == pytest.approx(1)
        assert bool((found >= 0).all())
        # The angle to every vertex is obtuse: what makes a point of a convex set the nearest.
        assert bool(((torch.eye(count, dtype=torch.float64) - found) @ (point - found) <= 1e-12).all())


def test_a_point_of_the_simplex_is_its_own_projection():
    torch.testing.assert_close(project_to_simplex(preference(0.2, 0.8, 0.0)), preference(0.2, 0.8, 0.0))


def test_fedcmoo_steps_from_the_weights_before_towards_the_shorter_gradient():
    matrix = gram(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    # One axis: λ_1 moves by rate·½·(s·4·λ_2 − s·1·λ_1) in a step, s = 1 / 1.5². An exponential way to 0.8.
    found = fedcmoo_weights(matrix, preference(0.3, 0.7))
    scale = 1 / ((1.0001**0.5 + 4.0001**0.5) / 2) ** 2
    by_hand = 0.8 - 0.5 * (1 - 1e-3 * 2.5 * scale) ** 1000
    assert found[0].item() == pytest.approx(by_hand, abs=1e-9)
    assert fedcmoo_weights(matrix, preference(0.0, 1.0))[0] < found[0]


def test_fedcmoo_does_not_depend_on_units():
    rows = 1e3 * gradients(3)
    torch.testing.assert_close(
        fedcmoo_weights(gram(rows), even(3)), fedcmoo_weights(gram(10 * rows), even(3)), rtol=1e-5, atol=1e-6
    )


def test_vertices_and_disagreement():
    assert is_vertex(preference(0, 1, 0))
    assert not is_vertex(preference(1e-9, 1 - 1e-9))
    assert disagreement(torch.stack([preference(1, 0), preference(0, 1)])) == pytest.approx(0.5**0.5)
    assert disagreement(torch.stack([preference(0.3, 0.7)] * 3)) == pytest.approx(0, abs=1e-12)
