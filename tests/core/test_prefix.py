"""The common prefix of texts against its definition, character by character."""

from __future__ import annotations

import random

import pytest

from fedvpa.core.prefix import common_prefix

pytestmark = pytest.mark.unit


def by_definition(*texts: str) -> int:
    place = 0
    while all(place < len(text) and text[place] == texts[0][place] for text in texts):
        place += 1
    return place


def test_random_texts_share_what_the_definition_says():
    """Few letters, so that long prefixes are frequent; letters of one, two and four bytes."""
    draw = random.Random(11)
    for _ in range(1500):
        start = "".join(draw.choices("aé\U0001f600", k=draw.randrange(23)))
        ends = ["".join(draw.choices("aé\U0001f600", k=draw.randrange(7))) for _ in range(draw.randint(1, 3))]
        texts = [start + end for end in ends]
        assert common_prefix(*texts) == by_definition(*texts), texts


def test_a_difference_is_found_wherever_it_is():
    text = "abc" * 7
    for place in range(len(text)):
        other = text[:place] + "x" + text[place + 1 :]
        assert common_prefix(text, other) == common_prefix(other, text) == place
        assert common_prefix(text[:place], text) == place
    assert common_prefix(text, text) == common_prefix(text) == len(text)


def test_a_long_shared_start_is_compared_in_slices_and_not_by_characters():
    """Each step of the bisection is one comparison; a loop over 2 million characters would make 2 million."""

    class Counted(str):
        calls = 0

        def startswith(self, *arguments):
            Counted.calls += 1
            return super().startswith(*arguments)

    start = "ab" * 1_000_000
    assert common_prefix(start + "x", Counted(start + "y")) == len(start)
    assert Counted.calls < 30
