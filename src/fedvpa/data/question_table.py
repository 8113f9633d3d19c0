"""Pairs without a winner, as a table that somebody fills in and that is read as pairs then."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.files import write_text
from fedvpa.data.schema import Text

COLUMNS = ("prompt", "response_a", "response_b", "winner")
"""What the table has; ``winner`` is empty."""

FLAGS = "--map chosen=response_a --map rejected=response_b --map winner=winner"
"""How the table is read once it is filled in."""


def check_table(path: Path) -> None:
    """Refuse a place where no table can be written.

    Raises:
        ConfigError: If its ending is not ``.jsonl`` or ``.csv``.
        RunError: If there is something already.
    """
    if path.suffix not in (".jsonl", ".csv"):
        raise ConfigError(
            f"A table cannot be written as {path.suffix or 'a file without an ending'}.",
            fix="Give a file that ends in .jsonl or .csv.",
            where=str(path),
        )
    if path.exists():
        raise RunError("exists already, perhaps with labels in it.", fix="Give another file.", where=str(path))


def write_questions(path: Path, rows: Sequence[tuple[Text, str, str]], user: str | None) -> None:
    """Write prompt, first and second response of each row, atomically.

    Args:
        path: Ends in ``.jsonl``, or in ``.csv``, where a conversation is written as JSON.
        rows: What to ask.
        user: Who will answer, for a column ``user_id``; None for no such column.
    """
    who = {} if user is None else {"user_id": user}
    plain = [(_plain(prompt), first, second) for prompt, first, second in rows]
    if path.suffix == ".jsonl":
        lines: list[dict[str, Any]] = [{**who, **dict(zip(COLUMNS, (*row, None), strict=True))} for row in plain]
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*who, *COLUMNS])
    for prompt, first, second in plain:
        text = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
        writer.writerow([*who.values(), text, first, second, ""])
    write_text(path, table.getvalue())


def _plain(prompt: Text) -> str | list[dict[str, str]]:
    if isinstance(prompt, str):
        return prompt
    return [{"role": turn.role, "content": turn.content} for turn in prompt]
