"""Pairs → token rows: rendered, tokenised, truncated and framed, with every truncation counted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Pair
from fedvpa.models.architecture import Kind
from fedvpa.models.encoding import TextEncoder, cut_prompt
from fedvpa.models.tokens import Frame, Ids, Limits, TokenCounts


@dataclass(frozen=True, slots=True, repr=False)
class Row:
    """The tokens of one pair: ``prefix`` is shared, and each response follows it directly.

    Attributes:
        prefix: Special tokens in front, the prompt, and the separator if there is one.
        chosen: Tokens of the chosen response.
        rejected: Tokens of the rejected response; none where a row is about a single response.
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


NOTE = np.dtype(
    [
        ("prompt_tokens", "<i4"),
        ("response_tokens", "<i4"),
        ("prompt_cut", "?"),
        ("responses_cut", "u1"),
        ("equal", "?"),
        ("spells", "?"),
    ]
)
"""What tokenisation kept of a pair and what it cut, as in :class:`~fedvpa.models.tokens.TokenCounts`; whether its two
responses have the same tokens once they are cut, so that there is nothing to learn or to order; and whether a text
spells a control token of the model, which is read as text."""


@dataclass(frozen=True, slots=True, repr=False)
class Tokenised:
    """Pairs as tokens.

    Attributes:
        rows: The tokens of each pair, in order.
        notes: A record of ``NOTE`` for each pair.
        refused: Pairs that cannot be read, by their place, and why: the chat template refuses the conversation, or a
            response has no tokens. A stand-in with equal responses takes the place of each.
    """

    rows: list[Row]
    notes: NDArray[Any]
    refused: dict[int, DataError]

    __repr__ = short_repr


def tokenise(pairs: Sequence[Pair], encoder: TextEncoder, *, frame: Frame, kind: Kind, limits: Limits) -> Tokenised:
    """Render, tokenise, truncate and frame every pair.

    Args:
        pairs: In table order.
        encoder: Gives the tokens of their texts.
        frame: From :func:`~fedvpa.models.tokens.frame_of`.
        kind: ``causal`` rows have special tokens in front only; ``encoder`` rows are [CLS] prompt [SEP] response.
        limits: Lengths to truncate to.

    Raises:
        ModelError: If a conversation meets a tokenizer without a usable chat template.
    """
    rows: list[Row] = []
    notes, refused = np.zeros(len(pairs), NOTE), dict[int, DataError]()
    for place, ids in enumerate(encoder.pairs(pairs, refused=refused)):
        empty = [name for name, response in (("chosen", ids.chosen), ("rejected", ids.rejected)) if not len(response)]
        if empty:
            refused[place] = _without_tokens(empty[0])
            ids = encoder.stand_in()
        # A template writes its own special tokens in front, or none; truncation on the left keeps them.
        framed = replace(frame, before=ids.prompt.head) if kind == "causal" else frame
        row, counts = _truncate(ids.prompt.ids, ids.chosen, ids.rejected, framed, limits)
        rows.append(row)
        notes[place] = (
            counts.prompt_tokens,
            counts.response_tokens,
            counts.prompts_truncated,
            counts.responses_truncated,
            np.array_equal(row.chosen, row.rejected),
            ids.spells,
        )
    return Tokenised(rows, notes, refused)


def _without_tokens(side: str) -> DataError:
    return DataError(
        f"the {side} response has no tokens, so it has no features.",
        fix="Remove the pair, or give the response a text.",
    )


def _truncate(prompt: Ids, chosen: Ids, rejected: Ids, frame: Frame, limits: Limits) -> tuple[Row, TokenCounts]:
    """Cut prompt (left) and responses (right) to the limits and put the special tokens around the prompt."""
    space = sys.maxsize if limits.positions is None else limits.positions - len(frame)
    # Copies, since a part of a longer array keeps the whole of it in memory.
    kept = [response[: min(limits.response, space)].copy() for response in (chosen, rejected)]
    kept_prompt = cut_prompt(prompt, min(limits.prompt, space - max(map(len, kept))))
    prefix = np.concatenate([np.asarray(frame.before, np.int32), kept_prompt, np.asarray(frame.between, np.int32)])
    counts = TokenCounts(
        prompt_tokens=len(kept_prompt),
        response_tokens=sum(map(len, kept)),
        prompts_truncated=int(len(kept_prompt) < len(prompt)),
        responses_truncated=sum(len(short) < len(full) for short, full in zip(kept, (chosen, rejected), strict=True)),
    )
    return Row(prefix, kept[0], kept[1]), counts
