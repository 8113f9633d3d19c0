r"""What a judge's reply says: A, B, or nothing that can be read.

A judge is asked for one letter. Language models and their servers wrap it in many ways, which are all taken off: a
thought (everything up to the last closing tag of one, also where the opening tag is missing), marks of the chat format
that leak into the text (``A<|im_end|>``), Markdown, LaTeX (``\boxed{A}``), JSON (``{"winner": "B"}``), the tags of our
own question (``<response_B>``), labels (``Winner: A``), lower case.

A verdict is only read where it stands alone: as the whole reply, on its last line, or on its first line where what
follows does not name the other response. A sentence is no verdict, even where it names one of the two: which one it
prefers would be our guess. Where two verdicts contradict each other, there is none.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from fedvpa.evaluation.judges.answer_cache import Letter


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_THOUGHTS = (
    "think|thinking|thought|thoughts|reasoning|reason|analysis|reflection|scratchpad|rationale|cot|longcat_think|"
    "inner_monologue|deliberation"
)
_THOUGHT_OPENS = re.compile(
    rf"<(?:\w+:)?(?:{_THOUGHTS})\s*>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>", re.I
)
_THOUGHT_CLOSES = re.compile(
    rf"</(?:\w+:)?(?:{_THOUGHTS})\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>|"
    r"<\|channel\|>\s*final\s*<\|message\|>",
    re.I,
)
"""What ends a thought: the tags of DeepSeek, Qwen and many others, of Mistral, Kimi, Sky-T1, Cohere, gpt-oss."""

_TURN_OPENS = re.compile(
    r"\s*(?:<\|im_start\|>|<start_of_turn>|<\|turn>|<\|start_header_id\|>|<\|start\|>|<\|assistant\|>|<bos>|<s>|"
    r"<\|begin_of_text\|>|\[/INST\])\s*(?:assistant|model)?\s*(?:<\|end_header_id\|>|<\|message\|>|<\|im_middle\|>)?",
    re.I,
)
"""A turn's beginning, with the role that follows it."""

_TURN_ENDS = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<end_of_turn>|<turn\|>|</?s>|<eos>|<pad>|<end_of_utterance>|</?(?:assistant|turn)>|\[/?INST\]|"
    r"\[EOS\]",
    re.I,
)
"""A mark that ends a turn, or begins the next one; the reply ends there."""

_LATEX = re.compile(r"\\(?:boxed|fbox|text|textbf|textit|textrm|mathrm|mathbf|mathsf|operatorname)\s*\{([^{}]*)\}")
_ANSWER_TAG = re.compile(
    r"</?(?:answer|final_?answer|verdict|winner|choice|decision|output|result|preference|judge?ment|final)\s*>", re.I
)
_HTML = re.compile(r"<(b|strong|i|em|u|mark|code|span|p|div)>([^<>]*)</\1>", re.I)
"""HTML around a letter; a lone ``<B>`` is a letter."""

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[ \t]*\w*[ \t]*$", re.M)

_SEPARATORS = re.compile(r"[\s\"'“”‘’«»„`*_#()\[\]{}<>.,:;!。$\\|=•–—/→-]+")
"""What may stand around a letter and between words. Other signs (?, +, >, ¬) mean something."""

_LABELS = _words(
    "answer response assistant candidate option completion reply output model text choice verdict winner decision "
    "preference preferred judgement judgment selection result conclusion better best pick chosen"
)
"""Words of which one must stand before a letter that does not stand alone."""

_BESIDE = _words("the my your final overall winning correct more helpful harmless is")
"""Further words that may stand there."""

_ARTICLE = re.compile(r"\bis\s+a\W*$")
"""The beginning of a sentence that was cut: "a" is no letter there."""

_VERDICT_KEYS = _words(
    "answer better best better_response best_response choice chosen decision final final_answer final_verdict "
    "judgement judgment letter output preference preferred preferred_response response result selection verdict winner "
    "winning_response"
)
"""Keys of a JSON object whose value is the verdict."""

_QUOTE = re.compile(r"<response_[ab]>\s*(?!</)\S", re.I)
"""A response between our own tags, repeated instead of named."""

_NAMED = re.compile(r"(?<![A-Za-z])([AB])(?![A-Za-z])|response[ _-]?([ab12])\b")
"""How prose names one of the two."""


def read_letter(text: str, *, cut: bool = False, numbered: bool = False) -> Letter | None:
    """A or B if that is the verdict of a reply; None if there is none, or none that is beyond doubt.

    Args:
        text: The reply as it came.
        cut: Whether it ended at the token limit: its last line may go on then, and only a bare letter counts there.
        numbered: Whether the rubric calls the responses "Response 1" and "Response 2", so that these are verdicts too.
    """
    reply = _without_marks(text)
    if reply is None:
        return None
    found = _whole(reply, numbered)
    if found is not None:
        bare = len(_SEPARATORS.sub("", reply)) == 1
        return None if cut and not bare and not reply.endswith(("}", "]")) else found
    return _on_a_line(reply, cut, numbered)


def names_numbers(rubric: str) -> bool:
    """Whether a rubric calls the two responses "Response 1" and "Response 2"."""
    return all(re.search(rf"\bresponse {number}\b", rubric, re.I) for number in (1, 2))


def _without_marks(text: str) -> str | None:
    """The reply without its thought and without marks of the chat format; None where a thought does not end."""
    clean = "".join(
        letter
        for letter in unicodedata.normalize("NFKC", text)
        if unicodedata.category(letter) != "Cf" or letter == "\n"
    )
    reply = _THOUGHT_CLOSES.split(clean)[-1]
    if _THOUGHT_OPENS.search(reply):
        return None
    while (opened := _TURN_OPENS.match(reply)) and opened.end():
        reply = reply[opened.end() :]
    reply = _TURN_ENDS.split(reply, maxsplit=1)[0]
    reply = _ANSWER_TAG.sub("\n", _FENCE.sub("", reply))
    while (bare := _LATEX.sub(r"\1", _HTML.sub(r"\2", reply))) != reply:
        reply = bare
    return reply.strip()


def _whole(reply: str, numbered: bool) -> Letter | None:
    """The verdict of a text that is nothing else."""
    if reply.startswith(("{", "[")) and (values := _json_values(reply)) is not None:
        letters = {_plain(value, numbered) for value in values}
        return letters.pop() if len(letters) == 1 else None
    return _plain(reply, numbered)


def _plain(text: str, numbered: bool) -> Letter | None:
    """The verdict of a text without structure: words that announce it, then a letter, and nothing else."""
    *words, last = [word for word in _SEPARATORS.split(text) if word] or [""]
    before = [word.lower() for word in words]
    if last in ("1", "2") and numbered and before and before[-1] == "response":
        last = "AB"[int(last) - 1]
    announced = not before or (before[0] != "is" and not _LABELS.isdisjoint(before))
    if last.upper() not in ("A", "B") or not announced or not (_LABELS | _BESIDE).issuperset(before):
        return None
    if _ARTICLE.search(text):
        return None
    return "A" if last.upper() == "A" else "B"


def _json_values(reply: str) -> list[str] | None:
    """The verdicts of a JSON object, or of a list of one text; None if it is neither."""
    for candidate in (reply, reply.replace("'", '"')):  # some models write JSON as Python does
        try:
            value = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(value, Mapping):
            return list(_verdict_values(value))
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
            return [value[0]]
    return None


def _verdict_values(value: Mapping[str, Any]) -> Iterator[str]:
    for key, item in value.items():
        if re.sub(r"[\s-]+", "_", str(key).strip().lower()) in _VERDICT_KEYS:
            yield str(item)


def _on_a_line(reply: str, cut: bool, numbered: bool) -> Letter | None:
    """The verdict that stands alone on the last line, or on the first; see the rules above."""
    lines = [line for line in reply.splitlines() if line.strip(" \t*_#`-=")]
    if len(lines) < 2 or _QUOTE.search(reply):
        return None
    alone = [_whole(line.strip(), numbered) for line in lines]
    if len({letter for letter in alone if letter is not None}) != 1:
        return None
    if alone[-1] is not None:
        return None if cut else alone[-1]
    rest = " ".join(line for line, letter in zip(lines, alone, strict=True) if letter is None)
    named = {(first or second).upper().translate(str.maketrans("12", "AB")) for first, second in _NAMED.findall(rest)}
    return alone[0] if alone[0] is not None and named <= {alone[0]} else None
