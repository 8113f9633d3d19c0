import json
from dataclasses import asdict

import pytest

from evaluation.judges.endpoint import completion
from fedvpa.evaluation.judges.answer_cache import Answer, AnswerCache
from fedvpa.evaluation.judges.completion import AttemptError, Completion, printable, read_completion


def body(message=None, finish="stop", **others):
    return json.dumps({"choices": [{"finish_reason": finish, "message": message}], **others})


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "B"}]}
TEXT = {"type": "text", "text": "A"}


def chunk(content, finish=None, **others):
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return "data: " + json.dumps({"object": "chat.completion.chunk", "choices": [choice], **others})


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (json.dumps(completion("A")), Completion("A", "stop", "", 101, 3)),
        (body({"content": [TEXT]}), Completion("A", "stop")),
        (body({"content": [THOUGHT, TEXT]}), Completion("A", "stop")),
        (body({"content": None, "reasoning_content": "Okay, let me"}, "length"),
         Completion("", "length", "a thought without a reply, 'Okay, let me'")),
        (body({"content": None}, "content_filter"), Completion("", "content_filter")),
        (body({"content": None, "refusal": "I cannot\x1b[31m."}),
         Completion("", "stop", "a refusal, 'I cannot\\x1b[31m.'")),
        (body({"content": None, "tool_calls": [{"id": "x"}]}, "tool_calls"),
         Completion("", "tool_calls", "a call of a tool")),
        (body({}, None), Completion("", "")),
        (body({"content": "A"}, usage=None), Completion("A", "stop")),
        (body({"content": "A"}, usage={"prompt_tokens": None, "completion_tokens": "many"}), Completion("A", "stop")),
        (body({"content": "A"}, usage={"prompt_tokens": 7.0, "completion_tokens": -1}),
         Completion("A", "stop", "", 7, 0)),
        (body({"content": "A"}, usage=[]), Completion("A", "stop")),
        (body({"content": "A"}, error=None), Completion("A", "stop")),
        (chunk("A", "stop").removeprefix("data: "), Completion("A", "stop")),
        ("\n\n".join([chunk(""), chunk("Winner:"), ": keep-alive", chunk(" B"), chunk(None, "stop"),
                      'data: {"choices": [], "usage": {}}', "data: [DONE]"]), Completion("Winner: B", "stop")),
    ],
)  # fmt: skip
def test_what_endpoints_call_a_completion_is_read(text, expected):
    assert read_completion(text) == expected


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "problem", "passing"),
    [
        ("<html>502 Bad Gateway</html>", "no JSON: '<html>502 Bad Gateway</html>'", True),
        ("", "no JSON: ''", True),
        ('{"choices": [{"mess', "no JSON", True),
        ("[]", r"no completion: '\[\]'", True),
        ('"A"', "no completion", True),
        ('{"choices": []}', r"no completion: '{\"choices\": \[\]}'", True),
        ('{"choices": null}', "no completion", True),
        ('{"choices": [{}]}', "no completion", True),
        ('{"choices": [{"message": {"content": 7}}]}', "no completion", True),
        ('{"choices": [{"message": {"content": ["A"]}}]}', "no completion", True),
        ('{"choices": [{"message": "A"}]}', "no completion", True),
        ('{"choices": [{"text": "A"}]}', "no completion", True),
        ('{"error": {"message": "upstream overloaded", "code": 502}}', "an error 502 .*'upstream overloaded'", True),
        ('{"error": {"message": "no credit", "code": 402}}', "an error 402 .*'no credit'", False),
        ('{"error": "broken", "choices": [{"message": {"content": "A"}}]}', "an error in place .*'broken'", True),
        ("data: [DONE]", "a stream without chunks", True),
        ("data: {", "a chunk of a reply that is no JSON", True),
        ('data: {"error": {"message": "gone"}}', "an error in place .*'gone'", True),
    ],
)
def test_what_is_no_completion_is_said_with_its_beginning(text, problem, passing):
    with pytest.raises(AttemptError, match=problem) as raised:
        read_completion(text)
    assert raised.value.passing is passing


@pytest.mark.unit
def test_a_reply_is_shown_short_and_safe_for_a_terminal():
    assert printable("red \x1b[31m\x07 and\n\n  \u202ereversed") == "'red \\x1b[31m\\x07 and \\x202ereversed'"
    assert printable("x" * 999) == "'" + "x" * 200 + "…'"
    assert Completion("so\n long", "length").shown == "'so long' (finish_reason: length)"
    assert Completion(" ", "").shown == "nothing (finish_reason: not said)"
    assert Completion("", "stop", "a refusal, 'no'").shown == "a refusal, 'no' (finish_reason: stop)"


def reply(text, place="message"):
    return json.dumps({"choices": [{place: {"content": text}}]})


@pytest.mark.unit
def test_a_reply_with_half_a_surrogate_pair_can_be_kept(tmp_path):
    text = read_completion(reply("A \ud83d")).text
    assert text == "A \ufffd"
    answer = Answer("key", "A", text)
    AnswerCache(tmp_path / "answers.jsonl").add(answer)
    assert asdict(AnswerCache(tmp_path / "answers.jsonl").get("key")) == asdict(answer)


@pytest.mark.unit
def test_two_chunks_that_part_a_letter_give_it():
    chunks = "".join(f"data: {reply(part, 'delta')}\n" for part in ("A \ud83d", "\ude00"))
    assert read_completion(chunks).text == "A \U0001f600"


@pytest.mark.unit
def test_a_reply_that_is_nested_too_deeply_is_no_completion():
    with pytest.raises(AttemptError):
        read_completion("[" * 100_000)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("finish", "cut", "filtered"),
    [
        ("stop", False, False),
        ("length", True, False),
        ("MAX_TOKENS", True, False),
        ("content_filter", False, True),
        ("SAFETY", False, True),
        ("", False, False),
    ],
)
def test_other_words_for_the_same_end_are_known(finish, cut, filtered):
    found = Completion("A", finish)
    assert (found.cut, found.filtered) == (cut, filtered)
