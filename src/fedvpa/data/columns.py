"""The names of a table's columns: ours, those of the data, and the message about one that is missing or not mapped."""

from __future__ import annotations

from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from fedvpa.core.config import Config
from fedvpa.core.errors import DataError
from fedvpa.core.options import column_option
from fedvpa.data.winner import Columns, is_neutral, words_of

PROMPT_WORDS = frozenset(
    {"prompt", "prompts", "instruction", "question", "query", "input", "request", "post", "context"}
)
"""Last words of the names of columns that hold prompts."""

TEXTS = ("prompt", "chosen", "rejected")
"""Our names of the columns that hold texts."""


class ColumnMap(Config):
    """Our name of a column → the name it has in the data. The defaults are TRL's column names and ours.

    An empty name says that no column is read for it, whatever columns there are.

    Attributes:
        prompt: What both responses answer. The data may lack it: then both responses begin with it. Empty: they do, and
            no column is the prompt.
        chosen: The preferred response; where ``winner`` is mapped, the first of the two.
        rejected: The other one; where ``winner`` is mapped, the second of the two.
        user_id: Who labelled the pair.
        group: The preference group.
        split: ``train``, ``validation`` or ``test``, where the data prescribe it.
        weight: How often the pair counts: 2 is the pair twice.
        pair_id: A unique name. Rows without one are named after their row number.
        conversation: The conversation that the prompt is a turn of: prompts of one conversation are held out together.
            None: the data have none.
        winner: Which response won, as labelling tools write it (``A``, ``model_b``, ``1``, ``left``, ``tie``); see
            :mod:`fedvpa.data.winner`. None: there is none, and a column that looks like one is an error where the
            names of the two responses do not say which was preferred. Empty: there is none, and no column is one.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    user_id: str = "user_id"
    group: str = "group"
    split: str = "split"
    weight: str = "weight"
    pair_id: str = "pair_id"
    conversation: str | None = None
    winner: str | None = None

    @model_serializer(mode="wrap")
    def _leave_out_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Runs and checkpoints from before there were these columns must compare equal to what they are read as.
        return {ours: theirs for ours, theirs in handler(self).items() if theirs is not None}


def check_columns(columns: ColumnMap, seen: Columns, what: str) -> None:
    """Check that the columns which are read are there, and that none which says who won is left unread.

    Args:
        columns: The names.
        seen: The columns of all rows.
        what: The name of the data, for the message.

    Raises:
        DataError: If a required column, or one that the mapping names, is in no row; or if a column looks as if it
            said which response won and is not mapped, while the names of the two responses do not say it.
    """
    for ours, theirs in columns.model_dump().items():
        required = ours in ("chosen", "rejected") or (theirs != ours and bool(theirs))
        if required and theirs not in seen.values:
            raise DataError(
                f"has no column {theirs!r}. Columns: {', '.join(sorted(seen.values))}.",
                fix=f"If another column holds it, say so with {column_option(ours)}.{_advice(columns, seen, ours)}",
                where=what,
            )
    if columns.prompt == "prompt" and "prompt" not in seen.values:
        _check_no_prompt(columns, seen, what)
    if columns.winner is not None or not is_neutral(columns.chosen, columns.rejected):
        return
    winners = seen.winners(_mapped(columns))
    if winners:
        raise DataError(
            f"the column {winners[0]!r} looks as if it said which response won, and it is not mapped: "
            f"{columns.chosen!r} would always be the preferred one.",
            fix=f"Add {column_option('winner', winners[0])}. If it says something else, say that there is no winner: "
            f"{column_option('winner', '')} (nothing behind the equals sign).",
            where=what,
        )


def _check_no_prompt(columns: ColumnMap, seen: Columns, what: str) -> None:
    """Refuse a column that looks like the prompt: without one, what both responses begin with is taken for it."""
    asked = sorted(name for name in set(seen.values) - _mapped(columns) if _looks_like_prompt(words_of(name)))
    if asked:
        raise DataError(
            f"has no column 'prompt', and {asked[0]!r} looks like it: without a prompt, what both responses begin with "
            "would be taken for it.",
            fix=f"Add {column_option('prompt', asked[0])}. If the responses begin with the prompt, say so: "
            f"{column_option('prompt', '')} (nothing behind the equals sign).",
            where=what,
        )


def _looks_like_prompt(words: list[str]) -> bool:
    return bool(words) and "system" not in words and words[-1] in PROMPT_WORDS and len(words) <= 2


def _mapped(columns: ColumnMap) -> set[str]:
    return {str(theirs) for theirs in columns.model_dump().values()}


def _advice(columns: ColumnMap, seen: Columns, ours: str) -> str:
    """The flags for a table of two responses and a winner, where a response is missing; with a space before it."""
    found = seen.responses() if ours in ("chosen", "rejected") else None
    if found is None:
        return ""
    names = [("chosen", found[0]), ("rejected", found[1])]
    if not columns.winner:
        names += [("winner", name) for name in seen.winners({*found, *_mapped(columns)})[:1]]
    return f" Perhaps: {' '.join(column_option(*each) for each in names)}"
