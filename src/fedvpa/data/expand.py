"""Rows of published data sets, each of which may hold several pairs, to a table under the rules of all tables.

A published set has a layout of its own: a conversation with scored answers, four completions with ratings. Its source
says which columns a row must have and how a row becomes pairs; texts, names, ties, counts and messages are as for any
other table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedvpa.core.errors import DataError
from fedvpa.core.seeds import entropy
from fedvpa.data.columns import ColumnMap
from fedvpa.data.files import Row
from fedvpa.data.messages import Skip
from fedvpa.data.rows import read_pair, with_storable_texts
from fedvpa.data.schema import PairTable
from fedvpa.data.shards import Shard
from fedvpa.data.tally import Tally

Candidate = Mapping[str, Any] | Skip
"""A pair in our column names, or why there is none."""

COLUMNS = ColumnMap(conversation="conversation")
"""The names in a :data:`Candidate`."""


@dataclass(frozen=True)
class Layout:
    """How the rows of a published set become pairs.

    Attributes:
        name: What the layout is called, for messages.
        columns: The columns that a row must have.
        pairs: The pairs of a row, in a fixed order. Arguments: the row, and its place for messages.
        whole: The rows that hold pairs, made of those of a file; by default the rows themselves.
        user: The column that names the user, if users are real: a share of the rows is then all rows of some users.
        splits: Whether files and hub splits prescribe the split of their pairs, where several are read.
    """

    name: str
    columns: tuple[str, ...]
    pairs: Callable[[Mapping[str, Any], str], Iterable[Candidate]]
    whole: Callable[[Iterator[Row], str], Iterator[Row]] = lambda rows, where: rows
    user: str = ""
    splits: bool = False


def expand(shards: Iterable[Shard], layout: Layout, *, what: str, strict: bool, share: float = 1.0) -> PairTable:
    """Read the pairs of every row.

    Args:
        shards: Where the rows come from.
        layout: What they look like.
        what: The name of the data, for messages.
        strict: Make a pair that would be left out or changed an error.
        share: The share of the rows to read, chosen by a hash of their place, or of their user.

    Returns:
        The pairs, named after their row and their number in it, and the report, which counts pairs.

    Raises:
        DataError: If a column is missing, a value is not what the layout has, or no pair is left.
    """
    shards = list(shards)
    prescribed = layout.splits and len({shard.split for shard in shards}) > 1
    tally = Tally(strict, unit="pair")
    for shard in shards:
        for number, row in layout.whole(checked(shard, layout, what), shard.where):
            name = f"{shard.name}:{number}" if shard.name else str(number)
            if share < 1 and _place(str(row.get(layout.user)) if layout.user else name) >= share:
                continue
            where = f"{shard.where}:{number}"
            for place, candidate in enumerate(layout.pairs(row, where), start=1):
                defaults = {
                    "pair_id": f"{name}.{place}",
                    "group": None,
                    "split": shard.split if prescribed else None,
                }
                _take(tally, candidate, defaults, where)
    return tally.table(what)


def _take(tally: Tally, candidate: Candidate, defaults: Mapping[str, str | None], where: str) -> None:
    if isinstance(candidate, Skip):
        tally.add(candidate, where)
        return
    values, changed = with_storable_texts(candidate, COLUMNS)
    tally.add(read_pair(values, COLUMNS, defaults, where), where, changed)


def _place(name: str) -> float:
    """Where the hash of a row's or a user's name lies in [0, 1)."""
    return (entropy(0, "share", name) >> 75) / 2.0**53


def checked(shard: Shard, layout: Layout, what: str) -> Iterator[Row]:
    """The rows of a shard, whose first one has the columns of the layout."""
    for place, (number, row) in enumerate(shard.rows):
        missing = [] if place else [name for name in layout.columns if name not in row]
        if missing:
            raise DataError(
                f"is not in the layout of {layout.name}: there is no column {missing[0]!r}. Columns: "
                f"{', '.join(sorted(row))}.",
                fix="Give the files as they are published, or read another table with data.source=table.",
                where=f"{shard.where}:{number}" if shard.where else what,
            )
        yield number, row


def column(row: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    """The value of a column.

    Raises:
        DataError: If the row lacks it, or it is of another type.
    """
    value = row.get(name)
    if isinstance(value, kind):
        return value
    kinds: dict[type, str] = {list: "a list", dict: "an object", str: "a text"}
    raise DataError(
        f"column {name!r} holds {type(value).__name__}, and {kinds.get(kind, 'a ' + kind.__name__)} is needed.",
        fix="Give the file as it is published.",
        where=where,
    )


def objects(row: Mapping[str, Any], name: str, where: str) -> list[Mapping[str, Any]]:
    """The objects in a list of a column.

    Raises:
        DataError: If it is no list, or an item is no object.
    """
    found: list[Mapping[str, Any]] = column(row, name, list, where)
    for item in found:
        if not isinstance(item, Mapping):
            raise DataError(
                f"column {name!r} holds a list with {type(item).__name__}, and a list of objects is needed.",
                fix="Give the file as it is published.",
                where=where,
            )
    return found


def number(value: Any) -> float | None:
    """A finite number, also one that is written as a text; None for anything else, such as ``N/A``."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if abs(found) < float("inf") else None
