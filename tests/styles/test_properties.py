"""Each property by hand, and that nothing else moves it."""

import math

import numpy as np
import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.styles import properties as p
from fedvpa.styles.properties import NAMES, PROPERTIES, check_property, measure

pytestmark = pytest.mark.unit

TEXT = "I think that you may like it. For example, try 12 apples!"
"""Eleven words of 41 letters and 14 syllables, in two sentences."""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length", math.log(12)),
        ("sentence_length", math.log(11 / 2)),
        ("word_length", 41 / 11),
        ("hedges", 2 / 11),
        ("first_person", 1 / 11),
        ("second_person", 1 / 11),
        ("exclamations", 1 / 2),
        ("examples", 1 / 2),
        ("digits", 2 / 57),
        ("commas", 1 / 11),
        ("line_count", math.log(2)),
        ("grade", 0.39 * 11 / 2 + 11.8 * 14 / 11 - 15.59),
        *(
            (name, 0.0)
            for name in ("lists", "formal", "contractions", "refusals", "questions", "warmth", "connectives")
        ),
        ("emphasis", 0.0),
    ],
)
def test_a_text_counted_by_hand(name, value):
    assert PROPERTIES[name](TEXT) == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "more", "less"),
    [
        ("lists", "To do:\n- one\n- two", "To do: one and two."),
        ("line_count", "One.\nTwo.", "One. Two."),
        ("formal", "The information is relevant to the arrangement.", "The words fit the plan well."),
        ("contractions", "It's fine, they don't mind.", "It is fine, they do not mind."),
        ("hedges", "It may perhaps work.", "It will surely work."),
        ("refusals", "I’m sorry, but no.", "Yes, of course."),
        ("refusals", "I cannot help.", "Anyone can help."),
        ("questions", 'What do you need? "Which one?"', "Tell me."),
        ("exclamations", "**Great!** Well done.", "Great. Well done."),
        ("warmth", "Thank you, I am glad.", "The table is flat."),
        ("digits", "It took 45 days.", "It took some days."),
        ("examples", "Fruit, such as plums.", "Fruit and plums."),
        ("first_person", "I like my job.", "People like jobs."),
        ("second_person", "You know your way.", "They know their way."),
        ("connectives", "It rained; therefore we stayed, although it hurt.", "It rained. We stayed. It hurt."),
        ("commas", "Red, green, blue.", "Red and green and blue."),
        ("emphasis", "A **bold** word.", "A bold word."),
        ("grade", "Institutional considerations necessitate deliberation.", "The cat sat on the mat."),
        ("word_length", "Institutional considerations.", "The cat sat."),
        ("sentence_length", "One two three four five six.", "One two. Three four. Five six."),
        ("length", "One two three.", "One."),
    ],
)
def test_a_text_with_more_of_it_has_a_higher_value(name, more, less):
    assert PROPERTIES[name](more) > PROPERTIES[name](less)


def test_the_numbers_of_a_list_are_no_digits():
    assert p.digits("1. One\n2. Two") == 0.0


def test_one_endless_word_is_not_a_long_vocabulary():
    assert p.word_length("Hi" + "i" * 1000) == 20.0


@pytest.mark.parametrize("text", ["", " \n", "...", "123 456", "🙂", "1.\n2."])
def test_a_text_without_words_has_finite_properties(text):
    assert np.isfinite(measure([text])).all()


def test_properties_of_texts_are_rows_in_the_order_of_their_names():
    found = measure([TEXT, "", TEXT])
    assert found.shape == (3, len(NAMES))
    assert (found[0] == found[2]).all()
    assert found[0, NAMES.index("commas")] == pytest.approx(1 / 11)
    assert measure([]).shape == (0, len(NAMES))


def test_an_unknown_property_suggests_the_nearest():
    assert check_property("hedges") == "hedges"
    with pytest.raises(ConfigError, match=r"file: there is no property 'hedge'.*'hedges'"):
        check_property("hedge", "file")
