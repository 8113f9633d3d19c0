"""Records of one dataclass as JSON lines, read as strictly as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from fedvpa.core.errors import DataError, nearest
from fedvpa.core.files import write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Record = TypeVar("Record", bound=DataclassInstance)


def save_records(path: Path, records: Iterable[DataclassInstance]) -> None:
    """Write one JSON object per record and line to ``path``, atomically."""
    lines = (json.dumps(asdict(record), ensure_ascii=False, allow_nan=False) + "\n" for record in records)
    write_text(path, "".join(lines))


def load_records(path: Path, kind: type[Record], noun: str) -> list[Record]:
    """Read what :func:`save_records` wrote.

    Args:
        path: The file.
        kind: A dataclass whose fields are str, int, float, bool or one of these or None. A key may be missing where
            the field has a default: an earlier release did not write it.
        noun: What a record is called in messages, in the singular.

    Raises:
        DataError: For a missing file, broken JSON, a missing or unknown key, a value of the wrong type, or a record
            that ``kind`` refuses; with file and row.
    """
    if not path.is_file():
        raise DataError(f"there is no such file of {noun}s.", where=str(path))
    return list(_parse_lines(path, kind, noun))


def _parse_lines(path: Path, kind: type[Record], noun: str) -> Iterator[Record]:
    text = path.read_text(encoding="utf-8")
    # Not splitlines(): it also splits at U+2028 and its like, which JSON strings hold unescaped.
    for row, line in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
        where = f"{path}:{row}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"not JSON ({error.msg}).", fix="Was the file cut short?", where=where) from error
        _check_keys(values, kind, noun, where)
        try:
            yield kind(**values)
        except DataError as error:
            raise DataError(error.problem, fix=error.fix, where=where) from None


def _check_keys(values: Any, kind: type[DataclassInstance], noun: str, where: str) -> None:
    known = _types(kind)
    if not isinstance(values, dict):
        raise DataError(f"a {noun} is a JSON object, not {type(values).__name__}.", where=where)
    for key, value in values.items():
        if key not in known:
            raise DataError(f"unknown key {key!r}.", fix=nearest(key, known), where=where)
        if not isinstance(value, known[key]) or (isinstance(value, bool) and bool not in known[key]):
            raise DataError(f"{key} cannot be {value!r}.", where=where)
    optional = {field.name for field in fields(kind) if field.default is not MISSING}
    if missing := [name for name in known if name not in values and name not in optional]:
        raise DataError(f"missing {', '.join(missing)}.", where=where)


@cache
def _types(kind: type[DataclassInstance]) -> dict[str, tuple[type, ...]]:
    """Field → the types that JSON may give it; a float may be written as a whole number."""
    hints = get_type_hints(kind)
    found = {field.name: get_args(hints[field.name]) or (hints[field.name],) for field in fields(kind)}
    return {name: (*types, int) if float in types else types for name, types in found.items()}
