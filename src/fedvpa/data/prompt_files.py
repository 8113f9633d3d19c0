"""Files of prompts without responses: lines of text, or JSON that holds strings and lists of messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedvpa.core.errors import DataError
from fedvpa.data.messages import as_text
from fedvpa.data.schema import Text
from fedvpa.data.text import is_empty

COLUMNS = ("prompt", "messages")
"""Where an object of a JSON file has its prompt."""

JSON_FIX = 'A prompt is "…", [{"role": "user", "content": "…"}, …], or an object with "prompt" or "messages".'


def read_prompts(path: Path) -> list[Text]:
    """The distinct prompts of a file that hold something, in the order in which each was first seen.

    A ``.jsonl`` file has one prompt a line: a string, a list of messages, or an object with ``prompt`` or ``messages``.
    A ``.json`` file has one prompt, or a list of prompts. Any other file has one prompt a line, as it is.

    Raises:
        DataError: If the file cannot be read, or a prompt in it is neither; names the line.
    """
    try:
        content = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot be read ({error}).", fix="Give a file of prompts in UTF-8.", where=str(path)
        ) from error
    texts = _json(content, path) if path.suffix.lower() in (".json", ".jsonl") else map(as_text, content.splitlines())
    return list(dict.fromkeys(text for text in texts if not is_empty(text)))


def _json(content: str, path: Path) -> Iterator[Text]:
    if path.suffix.lower() == ".json":
        value = _parsed(content, str(path))
        several = isinstance(value, list) and not _is_messages(value)
        for place, one in enumerate(value if several else [value], start=1):
            yield _text(one, f"{path}:{place}" if several else str(path))
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield _text(_parsed(line, f"{path}:{number}"), f"{path}:{number}")


def _is_messages(value: list[Any]) -> bool:
    """Whether a list is one conversation rather than a list of prompts."""
    return bool(value) and all(isinstance(one, Mapping) and "role" in one for one in value)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"is no JSON ({error}).", fix=JSON_FIX, where=where) from error


def _text(value: Any, where: str) -> Text:
    if isinstance(value, Mapping):
        named = [name for name in COLUMNS if name in value]
        if len(named) != 1:
            raise DataError(f"an object has {', '.join(map(str, value)) or 'nothing'}.", fix=JSON_FIX, where=where)
        value = value[named[0]]
    try:
        return as_text(value)
    except DataError as error:
        raise DataError(error.problem, fix=error.fix, where=where) from None
