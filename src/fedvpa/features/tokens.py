"""Pairs → token rows: rendered, tokenised, truncated and framed, with every truncation counted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Pair
from fedvpa.models.architecture import Kind
from fedvpa.models.encoding import TextEncoder, cut_prompt, place_of
from fedvpa.models.tokens import Frame, Ids, Limits, TokenCounts


@dataclass(frozen=True, slots=True, repr=False)
class Row:
    """The tokens of one pair: ``prefix`` is shared, and each response follows it directly.

    Attributes:
        prefix: Special tokens in front, the prompt, and the separator if there is one.
        chosen: Tokens of the chosen response.
        rejected: Tokens of the rejected response.
    """

    prefix: Ids
    chosen: Ids
    rejected: Ids

    __repr__ = short_repr

    @property
    def packed(self) -> int:
        """Tokens of the row that holds the prefix once and both responses."""
        return len(self.prefix) + len(self.chosen) + len(self.rejected)

    @property
    def longest(self) -> int:
        """Tokens of the longer of the two sequences prefix + response."""
        return len(self.prefix) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True, slots=True)
class Notes:
    """Rows of which the user should hear.

    Attributes:
        equal: Pairs whose two responses have the same tokens once they are cut: there is nothing to learn or to order.
        spelling: Pairs of which a text spells a control token of the model, which is read as text.
        cut_prompts: Pairs whose prompt was cut.
        cut_responses: Pairs of which a response was cut.
        unreadable: Pairs that cannot be read, and why: the chat template refuses the conversation, or a response has no
            tokens. They are among the equal ones, since a stand-in with equal responses takes their place.
    """

    equal: list[int] = field(default_factory=list)
    spelling: list[int] = field(default_factory=list)
    cut_prompts: list[int] = field(default_factory=list)
    cut_responses: list[int] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)

    def add(self, place: int, row: Row, counts: TokenCounts, *, spells: bool) -> None:
        """Note a row and what it lost."""
        for noted, where in (
            (np.array_equal(row.chosen, row.rejected), self.equal),
            (spells, self.spelling),
            (counts.prompts_truncated, self.cut_prompts),
            (counts.responses_truncated, self.cut_responses),
        ):
            if noted:
                where.append(place)


def tokenise(
    pairs: Sequence[Pair], encoder: TextEncoder, *, frame: Frame, kind: Kind, limits: Limits
) -> tuple[list[Row], TokenCounts, Notes]:
    """Render, tokenise, truncate and frame every pair.

    Args:
        pairs: In table order.
        encoder: Gives the tokens of their texts.
        frame: From :func:`~fedvpa.models.tokens.frame_of`.
        kind: ``causal`` rows have special tokens in front only; ``encoder`` rows are [CLS] prompt [SEP] response.
        limits: Lengths to truncate to.

    Returns:
        One row per pair, in order; what was kept and cut; and which rows need a word.

    Raises:
        DataError: If no pair can be read; names the first and why.
        ModelError: If a conversation meets a tokenizer without a usable chat template.
    """
    rows: list[Row] = []
    counts, notes, refused = TokenCounts(), Notes(), dict[int, DataError]()
    for place, ids in enumerate(encoder.pairs(pairs, refused=refused)):
        empty = [name for name, response in (("chosen", ids.chosen), ("rejected", ids.rejected)) if not len(response)]
        if empty:
            refused[place] = _without_tokens(empty[0], place_of(pairs[place], place))
            ids = encoder.stand_in()
        # A template writes its own special tokens in front, or none; truncation on the left keeps them.
        framed = replace(frame, before=ids.prompt.head) if kind == "causal" else frame
        row, counted = _truncate(ids.prompt.ids, ids.chosen, ids.rejected, framed, limits)
        rows.append(row)
        counts += counted
        notes.add(place, row, counted, spells=ids.spells)
    if refused and len(refused) == len(pairs):
        raise refused[0]
    notes.unreadable.update({place: error.problem for place, error in refused.items()})
    return rows, counts, notes


def _without_tokens(side: str, where: str) -> DataError:
    return DataError(
        f"the {side} response has no tokens, so it has no features.",
        fix="Remove the pair, or give the response a text.",
        where=where,
    )


def _truncate(prompt: Ids, chosen: Ids, rejected: Ids, frame: Frame, limits: Limits) -> tuple[Row, TokenCounts]:
    """Cut prompt (left) and responses (right) to the limits and put the special tokens around the prompt."""
    space = sys.maxsize if limits.positions is None else limits.positions - len(frame)
    kept = [response[: min(limits.response, space)] for response in (chosen, rejected)]
    kept_prompt = cut_prompt(prompt, min(limits.prompt, space - max(map(len, kept))))
    prefix = np.concatenate([np.asarray(frame.before, np.int32), kept_prompt, np.asarray(frame.between, np.int32)])
    counts = TokenCounts(
        prompt_tokens=len(kept_prompt),
        response_tokens=sum(map(len, kept)),
        prompts_truncated=int(len(kept_prompt) < len(prompt)),
        responses_truncated=sum(len(short) < len(full) for short, full in zip(kept, (chosen, rejected), strict=True)),
    )
    return Row(prefix, kept[0], kept[1]), counts
