"""The table of replies: what is a verdict, and what is none. Real models and servers wrote most of their kinds."""

import pytest

from fedvpa.evaluation.judges.replies import names_numbers, read_letter

READ = {
    "bare": {"A": "A", "b": "B", " B.\n": "B", "(A)": "A", "A)": "A", '"A"': "A", "Ａ": "A", "A\u200b": "A"},
    "markdown": {"**B**": "B", "`A`": "A", "### Verdict: A": "A", "**Winner:** B": "B", "```\nA\n```": "A"},
    "brackets": {"[[A]]": "A", "Answer: [B]": "B", "Final Verdict: **[[B]]**": "B", "The answer is: (b)": "B"},
    "labels": {
        "Answer: B": "B",
        "Winner: A": "A",
        "The final answer is **A**.": "A",
        "The better response is A.": "A",
        "My choice: A": "A",
        "Preferred response: B": "B",
        "verdict = b": "B",
        "Choice - A": "A",
        "Assistant A": "A",
        "Option: B": "B",
        "Answer:\n\nA": "A",
    },
    "own tags": {
        "response_A": "A",
        "RESPONSE_B": "B",
        "<response_B>": "B",
        "</response_A>": "A",
        "<response_A>\n": "A",
        "Response B": "B",
        "Response (B)": "B",
        "The winner is: response_B": "B",
        "<answer>B</answer>": "B",
        "I compared A and B.\n<answer>B</answer>": "B",
    },
    "html": {"<b>A</b>": "A", "<p><strong>B</strong></p>": "B", "<B>": "B", "<b>": "B", "Answer: <em>A</em>": "A"},
    "signs": {"A!": "A", "B。": "B", "Answer: A!": "A"},
    "latex": {"\\boxed{A}": "A", "$\\boxed{\\text{B}}$": "B", "\\(\\boxed{A}\\)": "A", "Answer: \\boxed{B}": "B"},
    "json": {
        '{"winner": "B"}': "B",
        '```json\n{"winner": "B", "loser": "A"}\n```': "B",
        '{"reasoning": "A is bad", "Verdict": "response_B"}': "B",
        "{'winner': 'A'}": "A",
        '["A"]': "A",
    },
    "leaked marks": {
        "A<|im_end|>": "A",
        "B</s>": "B",
        "A<end_of_turn>": "A",
        "A<|eot_id|>": "A",
        "A<｜end▁of▁sentence｜>": "A",
        "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nB": "A",
        "<start_of_turn>model\nB<end_of_turn>": "B",
        "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>": "A",
    },
    "thoughts": {
        "<think>A? No.</think>\nB": "B",
        "Both say much. The first is kinder.\n</think>\n\nA": "A",
        "B first </think> A\n</think> B": "B",
        "<think>\n\n</think>\n\nA": "A",
        "<Thinking>B</Thinking> A": "A",
        "<reasoning>A or B</reasoning>B": "B",
        "[THINK]hm, B[/THINK]A": "A",
        "◁think▷B◁/think▷A": "A",
        "<|channel|>analysis<|message|>B or A<|end|><|start|>assistant<|channel|>final<|message|>A<|return|>": "A",
    },
    "one line of several": {
        "A and B are good.\nWinner: A": "A",
        "It is hard to choose between A and B.\n\n**B**": "B",
        "A\n\nResponse A is kinder.": "A",
    },
}

REFUSED = {
    "nothing": ["", " ", "()", "Answer", "Answer:", "Response", "null", "{}", "[]"],
    "neither": [
        "C",
        "[[C]]",
        "tie",
        "a tie",
        "Both",
        "Neither",
        "It depends.",
        "1",
        "2",
        "Response 1",
        "first",
        "The first",
    ],
    "both": ["AB", "A B", "A or B", "A/B", "A and B", "A, B", "A > B", "Tie: A, B", "Winner: A or B", "A\nB"],
    "prose": [
        "A is better",
        "Response A is better than Response B.",
        "I prefer A over B",
        "I think the first one.",
        "A response is better",
        "A bit of both",
        "Is it A",
        "B but A is close",
        "Sure! Here is my answer",
        "As an AI, I cannot compare these.",
        "Okay, let me",
        "Bad",
        "Response A: 7/10, Response B: 8/10",
    ],
    "the other way round": ["not A", "The answer is not A", "¬A", "Worse: A", "Loser: B", "A?", "-1", "B+", "A1"],
    "contradictions": [
        "A\n\nWait, B is better.",
        "Response A\nkind\nResponse B",
        "Options:\nA\nB",
        "Answer: A. Answer: B",
        "Answer: A\nAnswer: B",
        '{"winner": "A", "verdict": "B"}',
    ],
    "quotes": ["<response_A> and <response_B>", "<response_A>\nI am kind.\n</response_A>"],
    "json": ['{"winner": "tie"}', '{"winner": null}', '{"a": 1, "b": 0}', '{"response_A": 7, "response_B": 3}'],
    "thoughts": ["<think>A", "<think>Both are good.\nA", "<think>A</think><think>B", "[THINK]A"],
}


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "letter"), [pytest.param(*case, id=f"{kind}-{case[0]!r}") for kind in READ for case in READ[kind].items()]
)
def test_a_verdict_is_read_in_whatever_wrapping(text, letter):
    assert read_letter(text) == letter


@pytest.mark.unit
@pytest.mark.parametrize(
    "text", [pytest.param(text, id=f"{kind}-{text!r}") for kind in REFUSED for text in REFUSED[kind]]
)
def test_what_is_no_clear_verdict_is_not_guessed(text):
    assert read_letter(text) is None


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),  # max_tokens = 1 cuts behind the letter
        ("b", "B"),
        ("A\n\nResponse A is kinder because", "A"),
        ('{"winner": "B"}', "B"),
        ("Response A", None),  # … "is worse"
        ("The better answer is a", None),  # … "tie"
        ("A is good.\nResponse B", None),
        ("<think>Okay, A", None),
    ],
)
def test_the_last_line_of_a_cut_reply_may_go_on(text, letter):
    assert read_letter(text, cut=True) == letter


@pytest.mark.unit
def test_numbers_are_verdicts_only_where_the_rubric_names_the_responses_so():
    rubric = "Response 1 is better if it is shorter than Response 2."
    assert names_numbers(rubric)
    assert not names_numbers("The better response is the first one of 2 that is 1 line long. Response 1.")
    for text, letter in (("Response 1", "A"), ("**Winner: Response 2**", "B"), ("response 2.", "B"), ("A", "A")):
        assert read_letter(text, numbered=True) == letter
    for text in ("1", "2", "Answer: 1", "Response 3", "Response 1 or Response 2"):
        assert read_letter(text, numbered=True) is None
    assert read_letter("Response 1") is None


@pytest.mark.unit
@pytest.mark.parametrize(
    "text",
    ["answer: " * 3000, ":" * 30_000 + "x", "{" * 30_000, "<" * 30_000, "\\text{" * 2000, "A " * 20_000],
    ids=len,
)
def test_no_reply_takes_long_to_refuse(text):
    """A pattern that tries all ways to read such a text would take years."""
    assert read_letter(text) is None
