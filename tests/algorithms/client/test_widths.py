"""Which variances a client tries, and what it says of those that it does not."""

import pytest
import torch

from fedvpa.algorithms.client.widths import HERE, neighbours, on_the_grid

GRID = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])


@pytest.mark.unit
def test_a_client_tries_its_variance_and_those_beside_it():
    tried = neighbours(torch.tensor([[0, 2, 4]]), GRID)
    assert tried.tolist() == [[[0, 0, 1], [1, 2, 3], [3, 4, 4]]]
    assert neighbours(torch.tensor([0]), GRID[:1]).tolist() == [[0, 0, 0]]


@pytest.mark.unit
def test_variances_that_are_not_tried_have_the_evidence_of_the_nearest_that_is():
    near = torch.tensor([[[5.0, 6.0, 7.0]]])
    assert on_the_grid(near, torch.tensor([[2]]), 5).tolist() == [[[5, 5, 6, 7, 7]]]
    assert on_the_grid(near, torch.tensor([[0]]), 5).tolist() == [[[6, 7, 7, 7, 7]]]
    assert on_the_grid(near, torch.tensor([[0]]), 1).tolist() == [[[6]]]


@pytest.mark.unit
def test_steps_to_the_best_neighbour_reach_the_best_of_the_grid():
    """Evidence with one hill: from either end, one place at a time."""
    hill = -(GRID - 3).square()
    for place in (torch.tensor([0]), torch.tensor([4])):
        for _ in range(4):
            near = neighbours(place, hill)
            assert near[0, HERE] == hill[place]
            place = on_the_grid(near, place, len(GRID)).argmax(-1)
        assert place.tolist() == [3]
