"""The messages of a conversation as others write them, and prompts as users give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from fedvpa.core.errors import DataError
from fedvpa.core.unicode import REPLACED, is_storable, storable
from fedvpa.data.report import DataReport, say_report
from fedvpa.data.schema import Message, Text

ROLES = ("system", "user", "assistant")

Prompt = Text | Sequence[Mapping[str, Any]]
"""What users write: a :data:`Text`, or messages as dictionaries with ``role`` and ``content``."""


class Skip(str):
    """The reason for which a row is left out."""


def message_of(value: Mapping[str, Any]) -> Message | Skip:
    """One turn of a conversation; or why it cannot be used.

    The content may be a list of text parts (``{"type": "text", "text": …}``, or strings), as the chat formats of OpenAI
    and Hugging Face have it; the parts are joined. A turn that calls a tool, holds something else than text, or
    has a role that is not one of ``ROLES`` cannot be used.
    """
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        return Skip(f"a message has the role {role!r}, and known are {', '.join(ROLES)}")
    if value.get("tool_calls") or value.get("function_call"):
        return Skip("a message calls a tool")
    parts = [_text_of(part) for part in content] if isinstance(content, list | tuple) else [content]
    if any(not isinstance(part, str) for part in parts):
        return Skip("a message has no content" if content is None else "a message holds something else than text")
    return Message(role, "".join(map(str, parts)))


def _text_of(part: Any) -> Any:
    """The text of one part of a message's content; anything but a string if it has none."""
    if not isinstance(part, Mapping):
        return part
    return part.get("text") if part.get("type", "text") in ("text", "input_text", "output_text") else None


def storable_text(text: Text) -> Text:
    """The text as UTF-8 can hold it, by the rule of :mod:`fedvpa.core.unicode`."""
    if isinstance(text, str):
        return storable(text)
    if all(is_storable(message.content) for message in text):
        return text
    return tuple(replace(message, content=storable(message.content)) for message in text)


def storable_texts(texts: Iterable[tuple[str, Text]], what: str, *, strict: bool = False) -> list[Text]:
    """Texts as UTF-8 can hold them; says on stderr how many are changed.

    Args:
        texts: The place of each, and the text.
        what: Where they come from, for the message.
        strict: Make a text that would be changed an error.

    Raises:
        DataError: Under ``strict``, with the place.
    """
    kept, report = [], DataReport(strict=strict)
    for where, text in texts:
        kept.append(storable_text(text))
        if kept[-1] != text:
            report = report.add(REPLACED, where, effect="changed", unit="prompt")
    say_report(replace(report, read=len(kept)), what)
    return kept


def as_texts(prompts: Prompt | Sequence[Prompt]) -> list[Text]:
    """One prompt or several, as texts that UTF-8 can hold. Raises as :func:`as_text`."""
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], Message | Mapping)):
        given = [cast(Prompt, prompts)]
    else:
        given = list(cast(Sequence[Prompt], prompts))
    numbered = ((f"prompt {number}", as_text(prompt)) for number, prompt in enumerate(given, start=1))
    return storable_texts(numbered, "prompts")


def as_text(prompt: Prompt) -> Text:
    """A prompt as a :data:`Text`, as it is given; :func:`storable_texts` is for what UTF-8 cannot hold.

    Raises:
        DataError: If it is neither a string nor messages, or a message cannot be used; see :func:`message_of`.
    """
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, Sequence):
        raise DataError(f"A prompt is {prompt!r}.", fix=_FIX)
    turns = []
    for turn in prompt:
        if not isinstance(turn, Message | Mapping):
            raise DataError(f"A message is {turn!r}.", fix=_FIX)
        message = turn if isinstance(turn, Message) else message_of(turn)
        if isinstance(message, Skip):
            raise DataError(f"{message}: {turn!r}.", fix=_FIX)
        turns.append(message)
    return tuple(turns)


def with_system(prompt: Text, system: str) -> Text:
    """A prompt with a system turn in front; a string becomes one message of the user.

    Raises:
        DataError: If the prompt has a system turn already.
    """
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if any(message.role == "system" for message in messages):
        raise DataError("The prompt has a system turn already.", fix="Give the system's text in one place.")
    return (Message("system", storable(system)), *messages)


_FIX = 'Give a text, or messages such as {"role": "user", "content": "…"}.'
