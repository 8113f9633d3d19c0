"""Rows of local files: JSON lines, JSON, CSV and TSV (plain or gzip), Parquet; with the row of what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from fedvpa.core.errors import DataError
from fedvpa.data.delimited import delimited_rows
from fedvpa.data.lines import Line, read_lines

Row = tuple[int, dict[str, Any]]
"""A row number, from 1, and the row's columns: in JSON lines, CSV and TSV the number of the line where it begins."""

JSON_LINES = (".jsonl", ".jsonl.gz")
DELIMITED = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
PARQUET = (".parquet",)
JSON = (".json", ".json.gz")
SUFFIXES = (*JSON_LINES, *DELIMITED, *PARQUET, *JSON)

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def is_of_type(name: str, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether a file of that name is of one of the types; capital letters are as good."""
    return name.lower().endswith(suffixes)


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file of one of the types ``SUFFIXES``.

    Blank lines are passed over. Whether a file is compressed is read from its content, not from its name; so is
    whether a ``.json`` file holds one list of objects, or JSON lines.

    Args:
        path: The file.

    Yields:
        The row number and the columns of each row.

    Raises:
        DataError: If the file is missing, empty, of another type, a Git LFS pointer, or broken anywhere.
    """
    if path.is_dir():
        raise DataError("is a folder, and a file is needed.", fix="Name one of its files.", where=str(path))
    if not path.is_file():
        raise DataError("no such file.", fix="Check the path.", where=str(path))
    if not is_of_type(path.name):
        raise DataError(
            f"the file type {path.suffix!r} is not known.", fix=f"Known: {', '.join(SUFFIXES)}.", where=str(path)
        )
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}).", where=str(path)) from error
    if head == _LFS_POINTER:
        raise DataError(
            "is a Git LFS pointer, not the data: the repository was cloned without Git LFS.",
            fix="Run 'git lfs pull' in that clone, or download the file itself.",
            where=str(path),
        )
    number = 0
    for number, columns in _rows(path):
        yield number, columns
    if number == 0:
        raise DataError("is empty: it holds no row.", where=str(path))


def _rows(path: Path) -> Iterator[Row]:
    if is_of_type(path.name, PARQUET):
        return _parquet_rows(path)
    lines = read_lines(path)
    if is_of_type(path.name, DELIMITED):
        return delimited_rows(lines, path, tabs=is_of_type(path.name, (".tsv", ".tsv.gz")))
    return _json_rows(lines, path) if is_of_type(path.name, JSON_LINES) else _json_file_rows(lines, path)


def _json_file_rows(lines: Iterator[Line], path: Path) -> Iterator[Row]:
    blank: list[Line] = []
    for number, line in lines:
        if line.strip():
            whole = chain(blank, [(number, line)], lines)
            yield from _json_list_rows(whole, path) if line.lstrip().startswith("[") else _json_rows(whole, path)
            return
        blank.append((number, line))


def _json_list_rows(lines: Iterator[Line], path: Path) -> Iterator[Row]:
    for number, columns in enumerate(_parsed("".join(line for _, line in lines), str(path)), start=1):
        yield number, _as_row(columns, f"{path}:{number}")


def _json_rows(lines: Iterator[Line], path: Path) -> Iterator[Row]:
    for number, line in lines:
        if line.strip():
            where = f"{path}:{number}"
            yield number, _as_row(_parsed(line, where), where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise DataError(
            f"is not JSON ({error.msg} at {place}).",
            fix="Repair the row; if it is the last one, the file was cut off and must be fetched again.",
            where=where,
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"is JSON that cannot be read ({error}).", fix="Repair the row.", where=where) from error


def _as_row(columns: Any, where: str) -> dict[str, Any]:
    if not isinstance(columns, dict):
        raise DataError(
            f"holds {type(columns).__name__}, and a row is a JSON object.",
            fix='Give one {"prompt": …, "chosen": …, "rejected": …} per line.',
            where=where,
        )
    return columns


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow  # deferred: only Parquet pays for it
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for columns in batch.to_pylist():
                    number += 1
                    yield number, columns
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"is not readable as Parquet ({str(error).splitlines()[0]}).",
            fix="Fetch the file again.",
            where=f"{path}:{number + 1}" if number else str(path),
        ) from error
