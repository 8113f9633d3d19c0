import pytest

from fedvpa.styles.words import CONNECTIVES, HEDGES, LIST_ITEM, WARM, WORD, lines, sentences, syllables, words

pytestmark = pytest.mark.unit


def test_words_keep_their_apostrophes_and_nothing_else():
    assert words("Don’t stop: 3 well-known (É.) tricks_2 'quoted'") == [
        "don't", "stop", "well", "known", "é", "tricks", "quoted",
    ]  # fmt: skip
    assert words("1. 22 ...") == []


def test_a_sentence_ends_with_a_mark_before_a_space_or_with_its_line():
    assert sentences('It costs 3.5 pounds. "Really?" Yes!\nNo end') == [
        "It costs 3.5 pounds.", '"Really?"', "Yes!", "No end",
    ]  # fmt: skip
    assert sentences("1. Wash it\n2. Dry it.") == ["Wash it", "Dry it."]
    assert sentences("... ?! 12.") == []


@pytest.mark.parametrize("item", ["- one", "* one", "1. one", "12) one", "(3) one", "  • one", "2: one"])
def test_marks_of_list_items(item):
    assert LIST_ITEM.match(item)


@pytest.mark.parametrize("line", ["-one", "1.5 grams", "one - two", "**bold**", "1. "])
def test_what_is_no_list_item(line):
    assert not LIST_ITEM.match(line)


def test_lines_that_are_blank_do_not_count():
    assert lines("one\n\n  \ntwo\n") == ["one", "two"]


@pytest.mark.parametrize(
    ("word", "count"), [("cat", 1), ("make", 1), ("table", 2), ("idea", 2), ("see", 1), ("information", 4), ("xyz", 1)]
)
def test_syllables_are_groups_of_vowels(word, count):
    assert syllables(word) == count


def test_the_lists_hold_words_as_texts_do():
    for word in HEDGES | WARM | CONNECTIVES:
        assert WORD.fullmatch(word)
        assert word == word.lower()
