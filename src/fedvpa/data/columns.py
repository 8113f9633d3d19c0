"""Columns to pairs: names, checks, and the count of what is left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from fedvpa.core.config import Config
from fedvpa.core.errors import DataError, nearest
from fedvpa.data.report import DataReport
from fedvpa.data.schema import Pair, PairTable, Text
from fedvpa.data.shards import SPLITS, Shard
from fedvpa.data.text import NO_SHARED_PROMPT, Parts, is_empty, parse_text, split_explicit, split_implicit

NO_CHOSEN, NO_REJECTED = "no chosen response", "no rejected response"
EQUAL = "chosen and rejected are equal"

SplitPrompt = Callable[[Text, Text, str], Parts | None]
"""Two texts that begin with their prompt, and the row's place → the parts, or None if they share no prompt."""


class ColumnMap(Config):
    """Our name of a column → the name it has in the data. The defaults are TRL's column names and ours.

    Attributes:
        prompt: What both responses answer. The data may lack it: then both responses begin with it.
        chosen: The preferred response.
        rejected: The other one.
        user_id: Who labelled the pair.
        group: The preference group.
        split: ``train``, ``validation`` or ``test``, where the data prescribe it.
        weight: A positive importance weight.
        pair_id: A unique name. Rows without one are named after their row number.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    user_id: str = "user_id"
    group: str = "group"
    split: str = "split"
    weight: str = "weight"
    pair_id: str = "pair_id"


class Skip(str):
    """The reason for which a row is left out."""


class Tally:
    """Collects pairs and counts what is left out.

    Args:
        strict: Make the first row that would be left out an error.
    """

    def __init__(self, strict: bool) -> None:
        self._report = DataReport(strict=strict)
        self._pairs: list[Pair] = []
        self._places: dict[str, str] = {}

    def add(self, result: Pair | Skip, where: str) -> None:
        """Take a pair in, or count why there is none.

        Raises:
            DataError: If the pair's id was seen before; under ``strict`` if the row is left out.
        """
        if isinstance(result, Skip):
            self._report = self._report.add(str(result), where, unit="row")
            return
        if result.pair_id in self._places:
            raise DataError(
                f"the pair_id {result.pair_id!r} was given before, at {self._places[result.pair_id]}.",
                fix="Make the ids unique, or drop the column.",
                where=where,
            )
        self._places[result.pair_id] = where
        self._pairs.append(replace(result, place=where))

    def table(self, what: str) -> PairTable:
        """Everything taken in.

        Args:
            what: The name of the data, for the message of an error.

        Returns:
            The pairs in the order they came, and the report.

        Raises:
            DataError: If every row was left out.
        """
        report = replace(self._report, read=len(self._pairs) + sum(self._report.skipped.values()))
        if not self._pairs:
            first = report.examples
            reasons = "; ".join(
                f"{count} × {reason} (first: {first[reason]})" for reason, count in report.skipped.items()
            )
            raise DataError(f"none of the {report.read} rows can be used: {reasons}.", where=what)
        return PairTable(tuple(self._pairs), report)


def read_pairs(
    shards: Iterable[Shard],
    columns: ColumnMap,
    *,
    what: str,
    strict: bool,
    group: Callable[[Shard], str | None] = lambda _: None,
    split_prompt: SplitPrompt = split_implicit,
) -> PairTable:
    """Read every row of ``shards`` into a table.

    The split in a shard's name prescribes the split of its pairs only where several splits are read: a lone
    ``test`` file is a set of pairs like any other.

    Args:
        shards: Where the rows come from.
        columns: The columns' names.
        what: The name of the data, for the messages of errors.
        strict: Make a row that would be left out an error.
        group: The group of a shard's pairs where no column says it.
        split_prompt: Finds the prompt of rows that have no prompt column.

    Returns:
        The pairs in the order of the shards, and the report.

    Raises:
        DataError: For a missing column, or a row that cannot be read.
    """
    shards = list(shards)
    prescribed = len({shard.split for shard in shards}) > 1
    tally, seen = Tally(strict), set[str]()
    for shard in shards:
        defaults = {"group": group(shard), "split": shard.split if prescribed else None}
        for number, values in shard.rows:
            seen.update(values)
            where = f"{shard.where}:{number}"
            defaults["pair_id"] = f"{shard.name}:{number}" if shard.name else str(number)
            result = read_pair(values, columns, defaults, where, split_prompt)
            if strict and isinstance(result, Skip):
                _check_columns(columns, seen, what)
            tally.add(result, where)
    _check_columns(columns, seen, what)
    return tally.table(what)


def _check_columns(columns: ColumnMap, seen: set[str], what: str) -> None:
    """A required column, or one that the mapping names, must exist in at least one row."""
    for ours, theirs in columns.model_dump().items():
        required = ours in ("chosen", "rejected") or theirs != ours
        if required and theirs not in seen:
            raise DataError(
                f"has no column {theirs!r}. Columns: {', '.join(sorted(seen))}.",
                fix=f"If another column holds it, say so with --map {ours}=COLUMN.",
                where=what,
            )


def read_pair(
    values: Mapping[str, Any],
    columns: ColumnMap,
    defaults: Mapping[str, str | None],
    where: str,
    split_prompt: SplitPrompt = split_implicit,
) -> Pair | Skip:
    """Read one row.

    Args:
        values: The row's columns.
        columns: The columns' names.
        defaults: ``pair_id``, ``group`` and ``split`` for a row whose columns do not say.
        where: The row's place.
        split_prompt: Finds the prompt of a row that has no prompt column.

    Returns:
        The pair, or why the row is left out.

    Raises:
        DataError: If a value cannot be read.
    """
    texts: dict[str, Text] = {}
    for ours in ("prompt", "chosen", "rejected"):
        theirs = getattr(columns, ours)
        if values.get(theirs) is not None:
            texts[ours] = parse_text(values[theirs], theirs, where)
    for ours, reason in (("chosen", NO_CHOSEN), ("rejected", NO_REJECTED)):
        if ours not in texts or is_empty(texts[ours]):
            return Skip(reason)
    if texts["chosen"] == texts["rejected"]:
        return Skip(EQUAL)
    parts = (
        split_explicit(texts["prompt"], texts["chosen"], texts["rejected"], where)
        if "prompt" in texts
        else split_prompt(texts["chosen"], texts["rejected"], where)
    )
    if parts is None:
        return Skip(NO_SHARED_PROMPT)
    prompt, chosen, rejected = parts
    for text, reason in ((chosen, NO_CHOSEN), (rejected, NO_REJECTED)):
        if is_empty(text):
            return Skip(reason)
    name = _read_name(values, columns.pair_id, where) or defaults["pair_id"]
    return Pair(
        prompt,
        chosen,
        rejected,
        user_id=_read_name(values, columns.user_id, where),
        group=_read_name(values, columns.group, where) or defaults["group"],
        split=_read_split(values, columns.split, where) or defaults["split"],
        weight=_read_weight(values, columns.weight, where),
        pair_id=name or "",
    )


def _read_name(values: Mapping[str, Any], column: str, where: str) -> str | None:
    value = values.get(column)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(
            f"column {column!r} holds {value!r}, and a name is a string or a whole number.",
            fix="Convert the column.",
            where=where,
        )
    return str(value)


def _read_split(values: Mapping[str, Any], column: str, where: str) -> str | None:
    value = values.get(column)
    if value is None or value in SPLITS:
        return value
    raise DataError(f"the split {value!r} is not known.", fix=nearest(str(value), SPLITS), where=where)


def _read_weight(values: Mapping[str, Any], column: str, where: str) -> float:
    value = values.get(column)
    if value is None:
        return 1.0
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise DataError(
            f"the weight {value!r} is not a positive finite number.",
            fix="Correct it; to leave a row out, delete it.",
            where=where,
        )
    return float(value)
