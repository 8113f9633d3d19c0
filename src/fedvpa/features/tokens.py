"""Pairs → token rows: rendered, tokenised, truncated and framed, with every truncation counted."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Pair
from fedvpa.models.architecture import Kind
from fedvpa.models.rendering import render
from fedvpa.models.tokens import Frame, Ids, Limits, TokenCounts

TOKENISED_AT_ONCE = 1024


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


def tokenise(
    pairs: Sequence[Pair], tokenizer: Any, *, frame: Frame, kind: Kind, template: str, limits: Limits
) -> tuple[list[Row], TokenCounts]:
    """Render, tokenise, truncate and frame every pair.

    Prompt and response are tokenised apart and concatenated, so that no token straddles their boundary.

    Args:
        pairs: In table order.
        tokenizer: A fast Hugging Face tokenizer.
        frame: From :func:`frame_of`.
        kind: ``causal`` rows have special tokens in front only; ``encoder`` rows are [CLS] prompt [SEP] response.
        template: ``plain`` or ``chat``, see :class:`~fedvpa.features.config.FeatureConfig`.
        limits: Lengths to truncate to.

    Returns:
        One row per pair, in order, and what was kept and cut.

    Raises:
        DataError: If a response has no tokens; names the row.
        ModelError: If a conversation meets a tokenizer without a chat template.
    """
    rows: list[Row] = []
    counts = TokenCounts()
    for start in range(0, len(pairs), TOKENISED_AT_ONCE):
        for row, counted in _tokenise_chunk(pairs, start, tokenizer, kind, template, limits, frame):
            rows.append(row)
            counts += counted
    return rows, counts


def _tokenise_chunk(
    pairs: Sequence[Pair], start: int, tokenizer: Any, kind: Kind, template: str, limits: Limits, frame: Frame
) -> Iterator[tuple[Row, TokenCounts]]:
    """Rows of the pairs from ``start`` on, tokenised in one call."""
    rendered = [render(pair, tokenizer, template) for pair in pairs[start : start + TOKENISED_AT_ONCE]]
    texts = [text for item in rendered for text in (item.prompt, item.chosen, item.rejected)]
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    for offset, item in enumerate(rendered):
        place = start + offset
        prompt, chosen, rejected = (np.asarray(each, dtype=np.int32) for each in ids[3 * offset : 3 * offset + 3])
        for name, response in (("chosen", chosen), ("rejected", rejected)):
            if not len(response):
                named = f" ({pairs[place].pair_id!r})" if pairs[place].pair_id else ""
                raise DataError(
                    f"The {name} response has no tokens, so it has no features.",
                    fix="Remove the pair, or give the response a text.",
                    where=f"row {place}{named}",
                )
        if kind == "causal" and item.conversation:
            # The template wrote its own BOS, if any; truncation on the left must keep it.
            own = tuple(int(token) for token in prompt[:1] if token == tokenizer.bos_token_id)
            yield _truncate(prompt[len(own) :], chosen, rejected, replace(frame, before=own), limits)
        else:
            yield _truncate(prompt, chosen, rejected, frame, limits)


def _truncate(prompt: Ids, chosen: Ids, rejected: Ids, frame: Frame, limits: Limits) -> tuple[Row, TokenCounts]:
    """Cut prompt (left) and responses (right) to the limits and put the special tokens around the prompt."""
    space = sys.maxsize if limits.positions is None else limits.positions - len(frame)
    kept = [response[: min(limits.response, space)] for response in (chosen, rejected)]
    room = min(limits.prompt, space - max(map(len, kept)))
    kept_prompt = prompt[max(0, len(prompt) - room) :]
    prefix = np.concatenate([np.asarray(frame.before, np.int32), kept_prompt, np.asarray(frame.between, np.int32)])
    counts = TokenCounts(
        prompt_tokens=len(kept_prompt),
        response_tokens=sum(map(len, kept)),
        prompts_truncated=int(len(kept_prompt) < len(prompt)),
        responses_truncated=sum(len(short) < len(full) for short, full in zip(kept, (chosen, rejected), strict=True)),
    )
    return Row(prefix, kept[0], kept[1]), counts
