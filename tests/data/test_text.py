import pytest

from fedvpa.core.errors import DataError
from fedvpa.data.delimited import Cell
from fedvpa.data.messages import Skip
from fedvpa.data.schema import Message
from fedvpa.data.text import (
    is_empty,
    parse_text,
    split_explicit,
    split_implicit,
    split_transcripts,
    transcript_messages,
)

pytestmark = pytest.mark.unit

ASK = Message("user", "Which colour?")
BLUE, RED = Message("assistant", "Blue."), Message("assistant", "Red.")


def test_messages_are_parsed_in_order():
    value = [{"role": "user", "content": "Which colour?"}, {"role": "assistant", "content": "Blue."}]
    assert parse_text(value, "chosen", "f:1") == (ASK, BLUE)
    assert parse_text("plain", "chosen", "f:1") == "plain"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "f:3: column 'chosen' holds int"),
        ([{"content": "x"}], "items are not messages"),
        (["Blue."], "items are not messages"),
    ],
)
def test_what_is_no_text_is_an_error_with_its_place(value, message):
    with pytest.raises(DataError, match=r"^f:3: ") as error:
        parse_text(value, "chosen", "f:3")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "usr", "content": "x"}, "a message has the role 'usr', and known are system, user, assistant"),
        ({"role": "tool", "content": "x"}, "a message has the role 'tool', and known are system, user, assistant"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, "a message calls a tool"),
        ({"role": "assistant", "content": "I look.", "tool_calls": [{"id": "1"}]}, "a message calls a tool"),
        ({"role": "user", "content": None}, "a message has no content"),
        ({"role": "user"}, "a message has no content"),
        (
            {"role": "user", "content": [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": "u"}]},
            "a message holds something else than text",
        ),
        ({"role": "user", "content": [{"type": "image"}]}, "a message holds something else than text"),
        ({"role": "user", "content": 7}, "a message holds something else than text"),
    ],
)
def test_a_message_that_cannot_be_used_says_why(message, reason):
    found = parse_text([{"role": "user", "content": "x"}, message], "chosen", "f:3")
    assert isinstance(found, Skip)
    assert found == reason


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "Which "}, "colo", {"type": "text", "text": "ur?", "image_url": None}]
    assert parse_text([{"role": "user", "content": parts, "tool_calls": None}], "chosen", "f:1") == (ASK,)


def test_a_cell_holds_messages_only_as_a_json_list_of_them():
    assert parse_text(Cell('[{"role": "user", "content": "Which colour?"}]'), "chosen", "f:1") == (ASK,)
    for text in ("[1] A footnote.", '[{"content": "x"}]', "[]", "plain", "[" * 100_000):
        found = parse_text(Cell(text), "chosen", "f:1")
        assert (found, type(found)) == (text, str)


@pytest.mark.parametrize(
    ("text", "empty"),
    [("", True), (" \n", True), ("x", False), ((), True), ((BLUE,), False), ((Message("user", " "),), True)],
)
def test_empty_is_nothing_to_read(text, empty):
    assert is_empty(text) is empty


def test_transcripts_split_at_their_last_assistant_turn_and_can_be_put_together_again():
    head = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    assert split_transcripts(head + " d", head + " e", "f:1") == (head, " d", " e")


def test_transcripts_of_different_prompts_have_no_parts():
    assert split_transcripts("\n\nHuman: a\n\nAssistant: x", "\n\nHuman: b\n\nAssistant: y", "f:1") is None


@pytest.mark.parametrize("column", ["chosen", "rejected"])
def test_a_transcript_without_assistant_is_an_error_that_names_the_column(column):
    texts = {
        "chosen": "\n\nHuman: a\n\nAssistant: x",
        "rejected": "\n\nHuman: a\n\nAssistant: y",
        column: "\n\nHuman: a",
    }
    with pytest.raises(DataError, match=rf"^f:5: the {column} transcript has no .*Assistant:"):
        split_transcripts(texts["chosen"], texts["rejected"], "f:5")


@pytest.mark.parametrize(
    ("chosen", "rejected", "parts"),
    [
        # The first is the example of TRL's documentation of extract_prompt, as strings.
        ("The sky is blue.", "The sky is green.", ("The sky is", " blue.", " green.")),
        ("abcX", "abcY", ("abc", "X", "Y")),
        ("abc", "abcd", ("ab", "c", "cd")),
        ("abcd", "abc", ("ab", "cd", "c")),
    ],
)
def test_strings_without_prompt_split_by_common_prefix(chosen, rejected, parts):
    assert split_implicit(chosen, rejected, "f:1") == parts


def test_transcripts_without_prompt_column_do_not_lose_the_shared_start_of_their_responses():
    head = "\n\nHuman: a\n\nAssistant:"
    assert split_implicit(head + " I do", head + " I don't", "f:1") == (head, " I do", " I don't")


def test_messages_without_prompt_split_after_the_shared_ones():
    assert split_implicit((ASK, BLUE), (ASK, RED), "f:1") == ((ASK,), (BLUE,), (RED,))


def test_texts_that_share_nothing_have_no_prompt():
    assert split_implicit("x", "y", "f:1") is None
    assert split_implicit((BLUE,), (RED,), "f:1") is None


def test_a_string_prompt_beside_messages_becomes_the_users_message():
    assert split_explicit(ASK.content, (BLUE,), (RED,), "f:1") == ((ASK,), (BLUE,), (RED,))


def test_responses_that_repeat_the_prompt_lose_it():
    assert split_explicit(ASK.content, (ASK, BLUE), (ASK, RED), "f:1") == ((ASK,), (BLUE,), (RED,))
    assert split_explicit((ASK,), (ASK, BLUE), (ASK, RED), "f:1") == ((ASK,), (BLUE,), (RED,))


def test_string_responses_to_a_conversation_become_the_assistants():
    assert split_explicit((ASK,), "Blue.", "Red.", "f:1") == ((ASK,), (BLUE,), (RED,))


def test_strings_stay_as_they_are():
    assert split_explicit("p", "c", "r", "f:1") == ("p", "c", "r")


@pytest.mark.parametrize("split", [split_implicit, lambda c, r, w: split_explicit("p", c, r, w)])
def test_a_string_against_messages_is_an_error(split):
    with pytest.raises(DataError, match="f:2: one response is a string"):
        split("Blue.", (ASK, RED), "f:2")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("\n\nHuman: Hi.\n\nAssistant:", [("user", "Hi.")]),
        (
            "\n\nHuman: a\n\nb\n\nAssistant: c\n\nHuman: d\n\nAssistant:",
            [("user", "a\n\nb"), ("assistant", "c"), ("user", "d")],
        ),
        ("How do I bake bread?", None),
        ("\n\nHuman: Hi.\n\nAssistant: Yes?", None),
        ("\n\nHuman: Hi.", None),
        ("So. \n\nHuman: Hi.\n\nAssistant:", None),
        ("\n\nAssistant: Hi.\n\nAssistant:", None),
        ("", None),
    ],
)
def test_a_transcript_that_waits_for_the_assistant_is_turns(text, turns):
    found = transcript_messages(text)
    assert (None if found is None else [(turn.role, turn.content) for turn in found]) == turns
