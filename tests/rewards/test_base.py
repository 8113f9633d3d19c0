import math

import pytest

from fedvpa.rewards.base import as_score


@pytest.mark.unit
def test_only_a_finite_number_is_a_reward():
    assert [as_score(value) for value in (0.0, -3.5, 1e300)] == [0.0, -3.5, 1e300]
    assert as_score(math.nan) == "the reward is nan"
    assert as_score(-math.inf) == "the reward is -inf"
    assert as_score("the text is too long") == "the text is too long"
