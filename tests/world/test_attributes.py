"""Which attributes a response can have."""

from __future__ import annotations

import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.world.attributes import Attributes, attribute_grid


@pytest.mark.unit
def test_grid_is_complete() -> None:
    assert len(set(attribute_grid())) == 2 * 6 * 2 * 3 * 2 * 3
    # Detail and off-topic counts with a sum of at most five: 21 of them instead of 6.
    assert len(set(attribute_grid(off_topic=True))) == 2 * 21 * 2 * 3 * 2 * 3


@pytest.mark.unit
@pytest.mark.parametrize(
    "numbers",
    [{"detail": 6}, {"detail": -1}, {"warmth": 3}, {"brevity": 3}, {"off_topic": -1}, {"detail": 3, "off_topic": 3}],
)
def test_impossible_attributes_are_errors(numbers: dict[str, int]) -> None:
    values = {"detail": 0, "warmth": 0, "brevity": 0, "off_topic": 0} | numbers
    with pytest.raises(ConfigError, match="has to be"):
        Attributes(compliance=True, caveat=True, formality=True, **values)
