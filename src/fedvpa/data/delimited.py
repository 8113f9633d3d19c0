"""Rows of CSV and TSV files, as spreadsheets and labelling tools write them (RFC 4180)."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from fedvpa.core.errors import DataError
from fedvpa.data.lines import Line

DELIMITERS = (",", ";", "\t")
"""What may stand between the cells of a CSV file; spreadsheets of many countries write ``;``."""
LONGEST_CELL = 2**31 - 1
"""Characters; the csv module's own limit, 131,072, is too short for a long conversation."""


class Cell(str):
    """A text of a file that has no types: what reads it may take it for a number, or for a list of messages."""

    __slots__ = ()


def delimited_rows(lines: Iterator[Line], path: Path, *, tabs: bool) -> Iterator[tuple[int, dict[str, Cell]]]:
    """Yield the rows below the header.

    The delimiter of a CSV file is the one of ``, ; tab`` that the header holds most often. Cells may be quoted, and
    quoted ones may hold line breaks; a quote inside is doubled. Empty lines are passed over.

    Args:
        lines: Of the file.
        path: The file, for messages.
        tabs: Whether cells are parted by tabs, whatever the header holds.

    Yields:
        The number of the line on which a row begins, and its cells by the names in the header, without the spaces
        around a name.

    Raises:
        DataError: If a name occurs twice in the header, a row has more or fewer cells than the header, or quotes are
            not closed.
    """
    first = next(lines, None)
    if first is None:
        return
    delimiter = "\t" if tabs else max(DELIMITERS, key=first[1].count)
    before = csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader((line for _, line in chain([first], lines)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    number = 1
    try:
        for cells in reader:
            if header is None and cells:
                header = _header(cells, path, number)
            elif cells and header is not None:
                yield number, _row(header, cells, path, number)
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"the quotes of this row are not as in a CSV file ({error}).",
            fix='Close every quoted cell, and write a quote inside one as "".',
            where=f"{path}:{number}",
        ) from error
    finally:
        csv.field_size_limit(before)


def _header(cells: list[str], path: Path, number: int) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise DataError(f"has two columns {twice[0]!r}.", fix="Rename one.", where=f"{path}:{number}")
    return names


def _row(header: list[str], cells: list[str], path: Path, number: int) -> dict[str, Cell]:
    if len(cells) != len(header):
        raise DataError(
            f"this row has {len(cells)} cells, and the header names {len(header)} columns.",
            fix="Quote cells that hold the delimiter or a line break; if it is the last row, fetch the file again.",
            where=f"{path}:{number}",
        )
    return {name: Cell(cell) for name, cell in zip(header, cells, strict=True)}
