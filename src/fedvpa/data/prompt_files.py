"""Files of prompts without responses: lines of text, or JSON that holds strings and lists of messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedvpa.core.errors import DataError
from fedvpa.data.lines import Line, read_lines
from fedvpa.data.messages import as_text, storable_texts
from fedvpa.data.schema import Text
from fedvpa.data.text import is_empty

COLUMNS = ("prompt", "messages")
"""Where an object of a JSON file has its prompt."""


def _fix(columns: Sequence[str]) -> str:
    """What an entry of a JSON file may be."""
    named = " or ".join(f'"{name}"' for name in columns)
    whole = "prompt" if tuple(columns) == COLUMNS else "text"
    return f'A {whole} is "…", [{{"role": "user", "content": "…"}}, …], or an object with {named}.'


def read_prompts(path: Path, *, strict: bool = False, columns: Sequence[str] = COLUMNS) -> list[Text]:
    """The distinct prompts of a file that hold something, in the order in which each was first seen.

    A ``.jsonl`` file has one prompt a line: a string, a list of messages, or an object with ``prompt`` or ``messages``.
    A ``.json`` file has one prompt, or a list of prompts. Any other file has one prompt a line, as it is. Encodings and
    gzip are as of files of pairs (:mod:`fedvpa.data.lines`); half surrogate pairs are replaced, and that is said.

    Args:
        path: The file.
        strict: Make a prompt that would be changed an error.
        columns: Where an object of a JSON file has its prompt.

    Raises:
        DataError: If the file cannot be read, or a prompt in it is neither; names the line.
    """
    path = path.expanduser()
    try:
        lines = list(read_lines(path))
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror}).", fix="Give a file of prompts in UTF-8.", where=str(path)
        ) from error
    texts = storable_texts(_texts(lines, path, columns), str(path), strict=strict)
    return list(dict.fromkeys(text for text in texts if not is_empty(text)))


def _texts(lines: Sequence[Line], path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Text]]:
    """The place of each prompt, and the prompt."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".json"):
        value = _parsed("".join(line for _, line in lines), str(path), columns)
        several = isinstance(value, list) and not _is_messages(value)
        for place, one in enumerate(value if several else [value], start=1):
            where = f"{path}:{place}" if several else str(path)
            yield where, _text(one, where, columns)
        return
    for number, line in lines:
        where = f"{path}:{number}"
        if not name.endswith(".jsonl"):
            yield where, line.rstrip("\r\n")
        elif line.strip():
            yield where, _text(_parsed(line, where, columns), where, columns)


def _is_messages(value: list[Any]) -> bool:
    """Whether a list is one conversation rather than a list of prompts."""
    return bool(value) and all(isinstance(one, Mapping) and "role" in one for one in value)


def _parsed(text: str, where: str, columns: Sequence[str]) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is no JSON ({error}).", fix=_fix(columns), where=where) from error


def _text(value: Any, where: str, columns: Sequence[str]) -> Text:
    if isinstance(value, Mapping):
        named = [name for name in columns if name in value]
        if len(named) != 1:
            raise DataError(f"an object has {', '.join(map(str, value)) or 'nothing'}.", fix=_fix(columns), where=where)
        value = value[named[0]]
    try:
        return as_text(value)
    except DataError as error:
        raise DataError(error.problem, fix=error.fix, where=where) from None
