"""Rows that keep tokens away: a direction that all states share, and how low it makes the logits."""

from __future__ import annotations

import math

import pytest
import torch

from fedvpa.core.errors import ModelError
from fedvpa.exports.unsaid import AIM, check_unsaid, log_probability, shared_direction, silent_row


@pytest.mark.reference
def test_the_direction_is_the_nearest_point_of_the_convex_hull_by_hand() -> None:
    states = torch.tensor([[1.0, 2.0], [3.0, 0.0], [4.0, 5.0]])
    # The nearest point to 0 lies between the first two: on the line x + y = 3, at (1.5, 1.5).
    torch.testing.assert_close(shared_direction(states), torch.tensor([1.5, 1.5]), atol=1e-4, rtol=0)


@pytest.mark.unit
def test_a_row_is_below_everything_else_in_every_state_and_says_where_none_is() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(53, 7, generator=generator) + torch.tensor([6.0, 0, 0, 0, 0, 0, 0])
    logits = torch.randn(53, 11, generator=generator)
    row = silent_row(states, logits)
    found = torch.cat([logits, (states @ row)[:, None]], 1)
    assert log_probability(found, [11]) == pytest.approx(-AIM, abs=1e-3), "no more than is needed"
    check_unsaid(found, [11])
    with pytest.raises(ModelError, match=r"the states of this model share no direction .*fedvpa export merged"):
        silent_row(torch.cat([states, -states]), torch.cat([logits, logits]))


@pytest.mark.unit
def test_a_token_that_would_be_said_is_an_error_with_its_probability() -> None:
    logits = torch.tensor([[0.0, -30.0], [0.0, math.log(0.25)]])
    assert math.exp(log_probability(logits, [1])) == pytest.approx(0.2)
    with pytest.raises(ModelError, match=r"a probability of up to 2\.0e-01"):
        check_unsaid(logits, [1])
