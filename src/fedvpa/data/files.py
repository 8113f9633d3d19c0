"""Rows of local files: JSON lines (plain or gzip) and Parquet, with the row number of everything that goes wrong."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedvpa.core.errors import DataError

Row = tuple[int, dict[str, Any]]
"""A row number, from 1 (the line number of a JSON lines file), and the row's columns."""

JSON_LINES = (".jsonl", ".jsonl.gz")
PARQUET = (".parquet",)
SUFFIXES = (*JSON_LINES, *PARQUET)

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_GZIP = b"\x1f\x8b"


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a ``.jsonl``, ``.jsonl.gz`` or ``.parquet`` file.

    Blank lines are passed over. Whether a file is compressed is read from its content, not from its name.

    Args:
        path: The file.

    Yields:
        The row number and the columns of each row.

    Raises:
        DataError: If the file is missing, empty, of another type, a Git LFS pointer, or broken anywhere.
    """
    if not path.is_file():
        raise DataError("no such file.", fix="Check the path.", where=str(path))
    if not path.name.endswith(SUFFIXES):
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
    rows = _parquet_rows(path) if path.name.endswith(PARQUET) else _json_rows(path, compressed=head.startswith(_GZIP))
    number = 0
    for number, columns in rows:
        yield number, columns
    if number == 0:
        raise DataError("is empty: it holds no row.", where=str(path))


def _json_rows(path: Path, compressed: bool) -> Iterator[Row]:
    for number, line in _lines(path, compressed):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            columns = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"is not JSON ({error.msg} at column {error.colno}).",
                fix="Repair the row; if it is the last one, the file was cut off and must be fetched again.",
                where=where,
            ) from error
        except UnicodeDecodeError as error:
            raise DataError("is not UTF-8 text.", fix="Save the file as UTF-8.", where=where) from error
        if not isinstance(columns, dict):
            raise DataError(
                f"holds {type(columns).__name__}, and a row is a JSON object.",
                fix='Give one {"prompt": …, "chosen": …, "rejected": …} per line.',
                where=where,
            )
        yield number, columns


def _lines(path: Path, compressed: bool) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with gzip.open(path, "rb") if compressed else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"the gzip stream breaks here ({error}).", fix="Fetch the file again.", where=f"{path}:{number + 1}"
        ) from error


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
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"is not readable as Parquet ({str(error).splitlines()[0]}).",
            fix="Fetch the file again.",
            where=f"{path}:{number + 1}" if number else str(path),
        ) from error
