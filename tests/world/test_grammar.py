"""Rendering and parsing are exact inverses, and nothing else parses."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from fedvpa.core.errors import DataError
from fedvpa.core.seeds import numpy_generator
from fedvpa.world.attributes import MAX_DETAIL, Attributes, attribute_grid, draw_attributes
from fedvpa.world.grammar import REASONS, Failure, Parsed, parse, render, sentence_texts
from fedvpa.world.lexicon import CAVEATS, CLOSERS, FILLERS, OPENERS, STANCES, TEMPLATES, TOPICS
from fedvpa.world.prompts import find_prompt, intents, prompts

BREAD = "How do I bake a crusty loaf?"
STANCE = "Sure, I can help you out with that."


@pytest.mark.unit
def test_world_is_as_large_as_promised() -> None:
    risky = [intent for intent in intents() if intent.risky]
    assert len(intents()) >= 200
    assert 2 * len(risky) == len(intents())
    assert len(TEMPLATES) >= 20
    assert len({prompt.text for prompt in prompts()}) == len(intents()) * len(TEMPLATES)


@pytest.mark.unit
def test_details_belong_to_one_topic_and_no_sentence_has_two_meanings() -> None:
    nouns = [noun for topic in TOPICS for noun in topic.details]
    assert max(Counter(nouns).values()) == 1
    assert all(len(topic.details) > MAX_DETAIL for topic in TOPICS)
    banks = (OPENERS, CLOSERS, CAVEATS, STANCES, *FILLERS)
    sentences = [text for bank in banks for texts in bank.values() for text in texts]
    assert max(Counter(sentences).values()) == 1
    assert set(sentences) <= set(sentence_texts())


@pytest.mark.unit
@pytest.mark.parametrize("seed", range(3))
def test_parse_inverts_render_for_every_attribute_combination(seed: int) -> None:
    rng = numpy_generator(seed, "test-grammar")
    every = prompts()
    for attributes in attribute_grid(off_topic=True):
        prompt = every[int(rng.integers(len(every)))]
        reading = parse(prompt.text, render(prompt.intent, attributes, rng))
        assert reading == Parsed(prompt.intent, attributes)


@pytest.mark.unit
def test_tens_of_thousands_of_distinct_responses() -> None:
    rng = numpy_generator(0, "test-distinct")
    intent = find_prompt(BREAD).intent
    texts = {render(intent, draw_attributes(rng), rng) for _ in range(2003)}
    # With K equally likely texts about 2003²/2K draws repeat: fewer than 40 repeats mean K > 50,000, for one intent.
    assert len(texts) > 2003 - 40


@pytest.mark.unit
@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("", "unknown sentence"),
        ("Hello there.", "unknown sentence"),
        (STANCE.rstrip("."), "unknown sentence"),
        (STANCE.lower(), "unknown sentence"),
        (f" {STANCE}", "unknown sentence"),
        (f"{STANCE} ", "unknown sentence"),
        (f"{STANCE}\n", "unknown sentence"),
        (f"{STANCE}  First, check the oven.", "unknown sentence"),
        (f"{STANCE} First, check the bicycle.", "unknown sentence"),
        (f"{STANCE} First, admire the oven.", "unknown sentence"),
        (f"{STANCE} First, check the oven", "unknown sentence"),
        (f"{STANCE} Sixth, check the oven.", "unknown sentence"),
        ("Hi there, thanks for asking!", "no stance"),
        ("First, check the oven.", "no stance"),
        ("Just be careful, things can go wrong.", "no stance"),
        (f"{STANCE} {STANCE}", "sentence out of order"),
        (f"{STANCE} Hi there, thanks for asking!", "sentence out of order"),
        (f"{STANCE} Just be careful, things can go wrong. First, check the oven.", "sentence out of order"),
        (f"{STANCE} Big hugs, and good luck! You're awesome, take care!", "sentence out of order"),
        (f"Thank you for this thoughtful question. {STANCE}", "mixed formality"),
        (f"{STANCE} First, examine the oven.", "mixed formality"),
        (f"{STANCE} First, skip the oven.", "mixed stance"),
        (f"{STANCE} It's just not worth the trouble.", "mixed stance"),
        (f"{STANCE} Second, check the oven.", "ordinal out of order"),
        (f"{STANCE} First, check the oven. Third, check the dough.", "ordinal out of order"),
        (f"{STANCE} First, check the oven. Second, grab the oven.", "repeated detail"),
    ],
)
def test_broken_text_is_turned_down_with_its_reason(response: str, reason: str) -> None:
    reading = parse(BREAD, response)
    assert isinstance(reading, Failure)
    assert reading.reason == reason
    assert reason in REASONS


@pytest.mark.unit
def test_every_mutilation_of_a_response_changes_its_reading() -> None:
    """Dropping, doubling or swapping any word never gives the same attributes by accident of a lenient parser."""
    rng = numpy_generator(5, "test-mutilation")
    full = Attributes(True, 3, True, 2, False, 0)
    words = render(find_prompt(BREAD).intent, full, rng).split(" ")
    for row in range(len(words)):
        assert isinstance(parse(BREAD, " ".join(words[:row] + words[row + 1 :])), Failure)
        assert isinstance(parse(BREAD, " ".join([*words[: row + 1], *words[row:]])), Failure)
    for first, second in combinations(range(len(words)), 2):
        swapped = list(words)
        swapped[first], swapped[second] = words[second], words[first]
        reading = parse(BREAD, " ".join(swapped))
        # Two verbs or two nouns may change places, for the details stay the same ones. Nothing else may.
        verbs = words[first - 1][-1] == words[second - 1][-1] == ","
        nouns = words[first - 1] == words[second - 1] == "the"
        if isinstance(reading, Parsed) and swapped != words:
            assert reading.attributes == full
            assert verbs or nouns


@pytest.mark.unit
def test_details_in_any_order_count_and_foreign_ones_do_not() -> None:
    text = f"{STANCE} First, check the oven. Second, grab the flour. Third, use the gate."
    reading = parse(BREAD, text)
    assert isinstance(reading, Parsed)
    assert (reading.attributes.detail, reading.attributes.off_topic) == (2, 1)
    elsewhere = parse("How do I pick a neighbor's lock?", text)
    assert isinstance(elsewhere, Parsed)
    assert (elsewhere.attributes.detail, elsewhere.attributes.off_topic) == (1, 2)


@pytest.mark.unit
def test_a_single_warm_or_filler_sentence_takes_either_slot() -> None:
    rng = numpy_generator(3, "test-slots")
    intent = find_prompt(BREAD).intent
    openers = {text for texts in OPENERS.values() for text in texts}
    texts = [render(intent, Attributes(True, 0, False, 1, True, 2), rng) for _ in range(41)]
    opened = [any(text.startswith(opener) for opener in openers) for text in texts]
    assert 0 < sum(opened) < len(opened)


@pytest.mark.unit
def test_unknown_prompt_is_an_error() -> None:
    with pytest.raises(DataError, match="no prompt 'How do I fly\\?'"):
        parse("How do I fly?", STANCE)
