import numpy as np
import pytest

from fedvpa.styles.fluency import DEGENERATE, Fluency, distinct_2, function_words, measures, plain_text, readable

pytestmark = pytest.mark.unit

FLOORS = Fluency(usual=0.4, floors=(5.0, 0.8, 0.3, 0.7))


def test_distinct_2_counts_pairs_of_neighbours_once():
    assert distinct_2(["a", "b", "a", "b", "a"]) == 2 / 4
    assert distinct_2(["a"]) == distinct_2([]) == 1.0


def test_function_words_lean_on_what_is_usual_where_there_are_few_words():
    assert function_words([], 0.4) == pytest.approx(0.4)
    assert function_words(["the", "zebra"], 0.4) == pytest.approx(5 / 12)
    assert function_words(["zebra"] * 90, 0.4) == pytest.approx(0.04)


def test_plain_text_is_spaces_and_letters_of_words_that_may_be_words():
    assert plain_text("ab, c") == 4 / 5
    assert plain_text("a" * 21 + " b") == 2 / 23
    assert plain_text("") == 0.0


@pytest.mark.parametrize(
    ("text", "measure"),
    [
        ("You.\n\nYou.", 0),
        ("it is so it is so it is so it is so it is so it is so it is so", 1),
        (" ".join(f"zebra{'abcdefghijklmnopqrstuvwxyz'[number]}" for number in range(26)), 2),
        (f"the {15 * '#'} of {15 * '%'} was {15 * '$'} and {15 * '@'} in", 3),
    ],
)
def test_each_measure_alone_makes_a_text_unreadable(text, measure):
    values = np.array(measures(text, FLOORS.usual))
    assert (values < np.array(FLOORS.floors)).tolist() == [place == measure for place in range(4)]
    (short,) = FLOORS.shortfall([text])
    assert short == pytest.approx(1 - values[measure] / FLOORS.floors[measure])
    assert short >= DEGENERATE
    assert readable(FLOORS.shortfall([text])).tolist() == [False]


def test_ordinary_text_falls_short_of_nothing_and_empty_text_of_everything():
    texts = ["You can wash it by hand and let it dry in the sun.", "", "...!!", " "]
    assert FLOORS.shortfall(texts).tolist() == [0.0, 1.0, 1.0, 1.0]
    assert FLOORS.shortfall([]).shape == (0,)


def test_floors_are_what_nearly_all_samples_reach_and_short_answers_are_none(samples):
    texts = [text for own in samples for text in own]
    found = Fluency.of(texts)
    assert found.floors[0] == 5.0  # the shortest has six words
    assert 0.2 < found.usual < 0.6
    assert (found.shortfall(texts) < 0.2).all()
