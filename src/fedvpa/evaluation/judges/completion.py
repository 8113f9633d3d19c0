"""What an endpoint sent back: a completion, or what is wrong with it.

Endpoints that speak OpenAI's chat completions differ in what they send. The rules of this file: a content that is a
list of parts is joined; a body of server-sent chunks is put together; counts of tokens that are missing count as 0; an
error inside a reply of status 200 is an error. Whatever is no completion is said with the start of what came.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedvpa.core.unicode import storable

RETRIED_STATUS = frozenset({408, 409, 425, 429})
"""Statuses below 500 that can pass; every status from 500 on is retried too."""

SHOWN_CHARACTERS = 200
"""So much of a reply or of an error is shown."""

_CUT = ("length", "max_tokens", "max_output_tokens")
_FILTERED = ("content_filter", "safety", "prohibited_content", "blocklist", "recitation")
"""What endpoints call a reply that was cut at the token limit, or taken by a filter; OpenAI's word first."""

CHUNK = "data:"
"""What a line of a streamed reply begins with."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the endpoint wrote.

    Attributes:
        text: The reply; empty where there is none.
        finish: Why it ended, such as ``stop``, ``length`` or ``content_filter``; empty where the endpoint does not say.
        instead: What came in place of a reply: a refusal, a call of a tool, or a thought; empty otherwise.
        tokens_in: Tokens in, as the endpoint counted them; 0 where it does not say.
        tokens_out: Tokens out, likewise.
    """

    text: str
    finish: str
    instead: str = ""
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def cut(self) -> bool:
        """Whether it ended at the token limit."""
        return self.finish.lower() in _CUT

    @property
    def filtered(self) -> bool:
        """Whether the endpoint's filter of contents took it."""
        return self.finish.lower() in _FILTERED

    @property
    def shown(self) -> str:
        """The start of what came, safe for a terminal, and why it ended."""
        what = printable(self.text) if self.text.strip() else self.instead or "nothing"
        return f"{what} (finish_reason: {self.finish or 'not said'})"


class AttemptError(Exception):
    """One attempt failed.

    Attributes:
        passing: Whether another attempt may succeed.
        pause: Seconds that the endpoint wants to be left alone before it.
        hint: What to do about it, for people; empty where nothing is known.
        busy: Whether the endpoint itself says that it works and another attempt may succeed.
    """

    def __init__(
        self, problem: str, *, passing: bool = True, pause: float = 0.0, hint: str = "", busy: bool = False
    ) -> None:
        self.passing, self.pause, self.hint, self.busy = passing, pause, hint, busy
        super().__init__(problem)


def printable(text: str) -> str:
    """The start of a text in quotes, on one line, without anything that a terminal would obey."""
    line = " ".join(text.split())
    start = line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}…"
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in f"'{start}'")


def is_passing(status: int) -> bool:
    """Whether a request that failed with this status may succeed later."""
    return status >= 500 or status in RETRIED_STATUS


def read_completion(body: str) -> Completion:
    """The completion in the body of a response, its text as UTF-8 can hold it (see :mod:`fedvpa.core.unicode`).

    Raises:
        AttemptError: If it is no completion, because it was cut or is something else.
    """
    found = _read(body)
    return replace(found, text=storable(found.text))


def _read(body: str) -> Completion:
    if body.lstrip().startswith(CHUNK):
        return _read_chunks(body)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise AttemptError(
            f"a reply that is no JSON: {printable(body)}",
            hint="Does base_url lead to the API and end in its version, such as /v1?",
        ) from None
    return _read_body(value)


def _read_body(value: Any) -> Completion:
    if not isinstance(value, Mapping):
        raise AttemptError(f"a reply that is no completion: {printable(json.dumps(value))}")
    if value.get("error"):
        raise _error_inside(value["error"])
    try:
        choice = value["choices"][0]
        # A single chunk of a stream has the message under another name.
        message = choice["message"] if choice.get("message") is not None else choice["delta"]
        text, instead = _text_of(message.get("content")), _instead_of(message)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise AttemptError(f"a reply that is no completion: {printable(json.dumps(value))}") from None
    usage = value.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    return Completion(
        text,
        str(choice.get("finish_reason") or ""),
        instead,
        _count(counts.get("prompt_tokens")),
        _count(counts.get("completion_tokens")),
    )


def _read_chunks(body: str) -> Completion:
    """A reply in server-sent chunks, which some proxies send though nobody asked for a stream."""
    parts: list[Completion] = []
    for line in body.splitlines():
        data = line.strip().removeprefix(CHUNK).strip()
        if not line.strip().startswith(CHUNK) or data == "[DONE]":
            continue
        try:
            value = json.loads(data)
        except ValueError:
            raise AttemptError(f"a chunk of a reply that is no JSON: {printable(data)}") from None
        if isinstance(value, Mapping) and value.get("choices") == []:  # the last chunk may hold counts only
            continue
        parts.append(_read_body(value))
    if not parts:
        raise AttemptError("a reply that is no completion: a stream without chunks")
    return Completion(
        "".join(part.text for part in parts),
        next((part.finish for part in reversed(parts) if part.finish), ""),
        next((part.instead for part in parts if part.instead), ""),
        max(part.tokens_in for part in parts),
        max(part.tokens_out for part in parts),
    )


def _text_of(content: Any) -> str:
    """The text of a content: a string, nothing, or the text parts of a list. Parts that hold thoughts are left out.

    Raises:
        TypeError: For anything else.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence) or not all(isinstance(part, Mapping) for part in content):
        raise TypeError
    return "".join(_text_of(part["text"]) for part in content if part.get("type", "text") in ("text", "output_text"))


def _instead_of(message: Mapping[str, Any]) -> str:
    """What a message holds that is no reply."""
    if message.get("refusal"):
        return f"a refusal, {printable(str(message['refusal']))}"
    if message.get("tool_calls") or message.get("function_call"):
        return "a call of a tool"
    thought = message.get("reasoning_content") or message.get("reasoning")
    return f"a thought without a reply, {printable(str(thought))}" if thought else ""


def _error_inside(error: Any) -> AttemptError:
    """The error that a reply of status 200 holds; its code, where it is a status, says whether it can pass."""
    detail = error if isinstance(error, Mapping) else {}
    code, text = detail.get("code"), printable(str(detail.get("message") or error))
    status = code if isinstance(code, int) and 400 <= code < 600 else None
    said = "" if status is None else f" {status}"
    return AttemptError(
        f"an error{said} in place of a completion: {text}", passing=status is None or is_passing(status)
    )


def _count(value: Any) -> int:
    """A number of tokens; 0 for whatever is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0
    return max(0, int(value))
