"""Rows to pairs: texts, names, split, weight and who won, each checked, with the row of all that cannot be read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fedvpa.core.errors import DataError, nearest
from fedvpa.core.unicode import is_storable, storable
from fedvpa.data.columns import TEXTS, ColumnMap, check_columns
from fedvpa.data.delimited import Cell
from fedvpa.data.messages import Skip
from fedvpa.data.schema import Pair, PairTable, Text
from fedvpa.data.shards import SPLITS, Shard
from fedvpa.data.tally import Tally
from fedvpa.data.text import NO_SHARED_PROMPT, Parts, is_empty, parse_text, split_explicit, split_implicit
from fedvpa.data.winner import Columns, Side, side_of

NO_CHOSEN, NO_REJECTED = "no chosen response", "no rejected response"
NO_PROMPT = "the prompt has no message"
NOT_ANSWERED = "a response begins or ends with a turn that is not the assistant's"
EQUAL = "chosen and rejected are equal"
TIE, NO_WINNER = "the winner is a tie", "no winner is given"
LEAST_WEIGHT, MOST_WEIGHT = 1e-3, 1e3
"""A weight is a count: 2 is the pair twice. Beyond these float32 sums of weights lose the small ones. Chosen by us."""

SplitPrompt = Callable[[Text, Text, str], Parts | None]
"""Two texts that begin with their prompt, and the row's place → the parts, or None if they share no prompt."""


def read_pairs(
    shards: Iterable[Shard],
    columns: ColumnMap,
    *,
    what: str,
    strict: bool,
    group: Callable[[Shard], str | None] = lambda _: None,
    split_prompt: SplitPrompt = split_implicit,
    winners: Mapping[str, Side] | None = None,
    ties: bool = False,
) -> PairTable:
    """Read every row of ``shards`` into a table.

    The split in a shard's name prescribes the split of its pairs only where several splits are read: a lone
    ``test`` file is a set of pairs like any other.

    Args:
        shards: Where the rows come from.
        columns: The columns' names.
        what: The name of the data, for the messages of errors.
        strict: Make a row that would be left out or changed an error.
        group: The group of a shard's pairs where no column says it.
        split_prompt: Finds the prompt of rows that have no prompt column.
        winners: Value of the winner column → who won, for values that :func:`~fedvpa.data.winner.side_of` does not
            know.
        ties: Keep the pairs of which neither response won, as ``Pair.tie``; they are left out otherwise.

    Returns:
        The pairs in the order of the shards, and the report.

    Raises:
        DataError: For a missing column, a winner column that is not mapped, or a row that cannot be read.
    """
    shards = list(shards)
    prescribed = len({shard.split for shard in shards}) > 1
    tally, seen = Tally(strict), Columns()
    for shard in shards:
        defaults = {"group": group(shard), "split": shard.split if prescribed else None}
        for number, row in shard.rows:
            seen.see(row)
            where = f"{shard.where}:{number}"
            defaults["pair_id"] = f"{shard.name}:{number}" if shard.name else str(number)
            values, changed = with_storable_texts(row, columns)
            result = read_pair(values, columns, defaults, where, split_prompt, winners, ties=ties)
            if strict and isinstance(result, Skip):
                check_columns(columns, seen, what)
            tally.add(result, where, changed)
    check_columns(columns, seen, what)
    return tally.table(what)


def with_storable_texts(values: Mapping[str, Any], columns: ColumnMap) -> tuple[Mapping[str, Any], int]:
    """The row with texts that UTF-8 can hold, and how many of its texts were changed."""
    changed = {}
    for ours in TEXTS:
        name = getattr(columns, ours)
        value = values.get(name)
        kept = _storable(value)
        if kept != value:
            changed[name] = kept
    return ({**values, **changed}, len(changed)) if changed else (values, 0)


def _storable(value: Any) -> Any:
    """A string, or all strings in the messages of a conversation, as UTF-8 can hold them."""
    if isinstance(value, str):
        return value if is_storable(value) else type(value)(storable(value))
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return {name: _storable(item) for name, item in value.items()} if isinstance(value, Mapping) else value


def read_pair(
    values: Mapping[str, Any],
    columns: ColumnMap,
    defaults: Mapping[str, str | None],
    where: str,
    split_prompt: SplitPrompt = split_implicit,
    winners: Mapping[str, Side] | None = None,
    *,
    ties: bool = False,
) -> Pair | Skip:
    """Read one row.

    Args:
        values: The row's columns.
        columns: The columns' names.
        defaults: ``pair_id``, ``group`` and ``split`` for a row whose columns do not say.
        where: The row's place.
        split_prompt: Finds the prompt of a row that has no prompt column.
        winners: As of :func:`read_pairs`.
        ties: As of :func:`read_pairs`.

    Returns:
        The pair, or why the row is left out.

    Raises:
        DataError: If a value cannot be read.
    """
    parts = _read_texts(values, columns, where, split_prompt)
    if isinstance(parts, Skip):
        return parts
    prompt, chosen, rejected = parts
    side = _read_winner(values, columns, where, winners) if columns.winner else "first"
    if isinstance(side, Skip):
        return side
    if side == "tie" and not ties:
        return Skip(TIE)
    if side == "second":
        chosen, rejected = rejected, chosen
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
        conversation=_read_name(values, columns.conversation, where) if columns.conversation else None,
        place=where,
        tie=side == "tie",
    )


def _read_texts(values: Mapping[str, Any], columns: ColumnMap, where: str, split_prompt: SplitPrompt) -> Parts | Skip:
    """Prompt, chosen and rejected; or why the row is left out."""
    texts: dict[str, Text] = {}
    for ours in TEXTS:
        theirs = getattr(columns, ours)
        if values.get(theirs) is not None:
            text = parse_text(values[theirs], theirs, where)
            if isinstance(text, Skip):
                return text
            texts[ours] = text
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
    for text, reason in ((parts[1], NO_CHOSEN), (parts[2], NO_REJECTED)):
        if is_empty(text):
            return Skip(reason)
    return _unanswerable(*parts) or parts


def _unanswerable(prompt: Text, chosen: Text, rejected: Text) -> Skip | None:
    """Why a conversation is no prompt with two responses of the assistant; None if it is."""
    if prompt == ():
        return Skip(NO_PROMPT)
    answers = [text for text in (chosen, rejected) if not isinstance(text, str)]
    return (
        Skip(NOT_ANSWERED) if any(turn.role != "assistant" for one in answers for turn in (one[0], one[-1])) else None
    )


def _read_winner(
    values: Mapping[str, Any], columns: ColumnMap, where: str, winners: Mapping[str, Side] | None
) -> Side | Skip:
    """Who won; or why the row is left out. A value may also be the name, or the text, of a column of responses."""
    name = columns.winner or ""
    value = values.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return Skip(NO_WINNER)
    side = side_of(value, winners)
    for known, column in (("first", columns.chosen), ("second", columns.rejected)):
        if side is None and str(value).strip() in (column, str(values.get(column)).strip()):
            side = known  # type: ignore[assignment]
    if side is None:
        raise DataError(
            f"column {name!r} says {value!r}, which names no winner.",
            fix="Write A, B or tie (or 1, 2; model_a, model_b; left, right), or say what it means: "
            f"data.winner_values.{value}=first (or second, or tie).",
            where=where,
        )
    return side


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
    check_name(str(value), column, where)
    return str(value)


def check_name(name: str, column: str, where: str) -> None:
    """Raise DataError for the name of a user, a group or a pair that UTF-8 cannot hold."""
    if not is_storable(name):
        raise DataError(
            f"column {column!r} holds {name!r}, and no file can hold a name with half a surrogate pair.",
            fix="Give the name without it.",
            where=where,
        )


def _read_split(values: Mapping[str, Any], column: str, where: str) -> str | None:
    value = values.get(column)
    if value is None or value == "":
        return None
    if value in SPLITS:
        return str(value)
    raise DataError(f"the split {value!r} is not known.", fix=nearest(str(value), SPLITS), where=where)


def _read_weight(values: Mapping[str, Any], column: str, where: str) -> float:
    value = values.get(column)
    if value is None or value == "":
        return 1.0
    return checked_weight(_number_in(value) if isinstance(value, Cell) else value, value, where)


def _number_in(cell: Cell) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def checked_weight(weight: Any, given: object, where: str) -> float:
    """A weight as a number.

    Args:
        weight: What was read.
        given: How it was written, for the message.
        where: The row's place.

    Raises:
        DataError: If it is no number, or outside of ``LEAST_WEIGHT`` … ``MOST_WEIGHT``.
    """
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or weight != weight or weight <= 0 or weight == math.inf:
        raise DataError(
            f"the weight {given!r} is not a positive finite number.",
            fix="Correct it; to leave a row out, delete it.",
            where=where,
        )
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise DataError(
            f"the weight {given!r} is not from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}.",
            fix="A weight is a count: 2 is the pair twice. Multiply all weights by one number so that they fit.",
            where=where,
        )
    return float(weight)
