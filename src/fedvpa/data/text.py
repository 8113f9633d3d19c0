"""Texts of a pair: strings or messages, and where the prompt ends and the responses begin."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fedvpa.core.errors import DataError
from fedvpa.core.prefix import common_prefix
from fedvpa.data.delimited import Cell
from fedvpa.data.messages import Skip, message_of
from fedvpa.data.schema import Message, Text

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
NO_SHARED_PROMPT = "the two responses share no prompt"

Parts = tuple[Text, Text, Text]
"""Prompt, chosen and rejected."""


def parse_text(value: Any, column: str, where: str) -> Text | Skip:
    """Read a string or a list of role/content messages.

    The content of a message may be a list of text parts (``{"type": "text", "text": …}``, or strings), as
    OpenAI's and Hugging Face's chat formats have it; the parts are joined. In a file without types (CSV) a list of
    messages is written as JSON.

    Args:
        value: What the column holds.
        column: The column's name, for the message of an error.
        where: The row's place.

    Returns:
        The string itself, or the messages as a tuple; or why the row is left out, where a message calls a tool, holds
        something else than text, or has a role that is not one of ``ROLES``.

    Raises:
        DataError: If ``value`` is neither a string nor a list of messages.
    """
    if isinstance(value, Cell):
        value = _messages_in(value) or str(value)
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple):
        raise DataError(
            f"column {column!r} holds {type(value).__name__}, and a text is a string or a list of messages.",
            fix='Give "…" or [{"role": "user", "content": "…"}, …].',
            where=where,
        )
    messages: list[Message] = []
    for item in value:
        if not isinstance(item, Mapping) or "role" not in item:
            raise DataError(
                f"column {column!r} holds a list whose items are not messages.",
                fix='A message is {"role": "user", "content": "…"}.',
                where=where,
            )
        message = message_of(item)
        if isinstance(message, Skip):
            return message
        messages.append(message)
    return tuple(messages)


def _messages_in(cell: str) -> list[Any] | None:
    """The messages that a cell holds as JSON; None if it holds a text."""
    if not cell.lstrip().startswith("["):
        return None
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    return found if found and all(isinstance(item, dict) and "role" in item for item in found) else None


def is_empty(text: Text) -> bool:
    """Whether there is nothing to read in ``text``: no messages, or white space only."""
    return not (text.strip() if isinstance(text, str) else any(message.content.strip() for message in text))


def split_transcripts(chosen: str, rejected: str, where: str) -> Parts | None:
    r"""Split two HH-RLHF transcripts at their last ``"\n\nAssistant:"``.

    The marker stays with the prompt, and nothing is stripped: prompt + response is the transcript again.

    Args:
        chosen: The transcript that ends with the preferred response.
        rejected: The other one.
        where: The row's place.

    Returns:
        The parts, or None if the prompts of the two transcripts differ.

    Raises:
        DataError: If a transcript has no such marker.
    """
    halves = []
    for column, transcript in (("chosen", chosen), ("rejected", rejected)):
        head, marker, response = transcript.rpartition(ASSISTANT)
        if not marker:
            raise DataError(
                f"the {column} transcript has no {ASSISTANT!r}, so its response cannot be found.",
                fix="For texts in another format use data.source=table.",
                where=where,
            )
        halves.append((head + marker, response))
    (prompt, preferred), (other, worse) = halves
    return (prompt, preferred, worse) if prompt == other else None


def split_implicit(chosen: Text, rejected: Text, where: str) -> Parts | None:
    """Find the prompt that both texts begin with, where the data have no prompt column.

    Messages: the shared leading ones. HH-RLHF transcripts: everything up to the last assistant turn. Other strings:
    TRL's rule (``trl.extract_prompt``), the longest common prefix, without the space that may end it; where one
    text begins the other, the last common character or message is left to the responses.

    Args:
        chosen: The preferred text, prompt included.
        rejected: The other one.
        where: The row's place.

    Returns:
        The parts, or None if the texts share no prompt.

    Raises:
        DataError: If one text is a string and the other one messages, or a transcript lacks its assistant turn.
    """
    if isinstance(chosen, str) and isinstance(rejected, str):
        if chosen.startswith(HUMAN) and rejected.startswith(HUMAN):
            return split_transcripts(chosen, rejected, where)
        end = _shared(chosen, rejected)
        end -= end > 0 and chosen[end - 1] == " "
        return (chosen[:end], chosen[end:], rejected[end:]) if end else None
    _check_same_kind(chosen, rejected, where)
    end = _shared(chosen, rejected)
    return (chosen[:end], chosen[end:], rejected[end:]) if end else None


def _shared(first: Text, second: Text) -> int:
    """Length of the common prefix, leaving at least one element to the shorter text."""
    shortest = min(len(first), len(second))
    if isinstance(first, str) and isinstance(second, str):
        shared = common_prefix(first, second)
    else:
        shared = next((i for i in range(shortest) if first[i] != second[i]), shortest)
    return min(shared, max(shortest - 1, 0))


def split_explicit(prompt: Text, chosen: Text, rejected: Text, where: str) -> Parts:
    """Bring a prompt and its two responses to one kind: all strings, or all messages.

    A string beside messages becomes one message, of the user for a prompt and of the assistant for a response.
    Responses that repeat the prompt's messages lose them (the layout of UltraFeedback).

    Args:
        prompt: What both answer.
        chosen: The preferred response.
        rejected: The other one.
        where: The row's place.

    Returns:
        Prompt, chosen and rejected.

    Raises:
        DataError: If one response is a string and the other one messages.
    """
    _check_same_kind(chosen, rejected, where)
    if all(isinstance(text, str) for text in (prompt, chosen, rejected)):
        return prompt, chosen, rejected
    asked = as_messages(prompt, "user")
    preferred, worse = as_messages(chosen, "assistant"), as_messages(rejected, "assistant")
    if preferred[: len(asked)] == asked == worse[: len(asked)]:
        preferred, worse = preferred[len(asked) :], worse[len(asked) :]
    return asked, preferred, worse


def as_messages(text: Text, role: str) -> tuple[Message, ...]:
    """The messages of a text; a string is one message of ``role``."""
    return (Message(role, text),) if isinstance(text, str) else text


def transcript_messages(text: str) -> tuple[Message, ...] | None:
    r"""The turns of an HH-RLHF transcript that waits for the assistant; None for a text that is none.

    Each turn begins with ``"\n\nHuman:"`` or ``"\n\nAssistant:"``; the last one is the assistant's and empty.
    """
    head, *pieces = re.split(f"({re.escape(HUMAN)}|{re.escape(ASSISTANT)})", text)
    turns = [
        Message("user" if marker == HUMAN else "assistant", said.strip())
        for marker, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    if head or len(turns) < 2 or turns[0].role != "user" or turns[-1] != Message("assistant", ""):
        return None
    return tuple(turns[:-1])


def plain_text(text: Text) -> str:
    """A text for whoever reads no messages: a string as it is, of messages ``role: content`` of each."""
    return text if isinstance(text, str) else "\n\n".join(f"{turn.role}: {turn.content}" for turn in text)


def _check_same_kind(chosen: Text, rejected: Text, where: str) -> None:
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise DataError(
            "one response is a string and the other one a list of messages.",
            fix="Give both in the same format.",
            where=where,
        )
