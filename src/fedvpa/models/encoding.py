"""From texts to tokens, for features, training, generation and judging alike.

:class:`TextEncoder` is the one place where a prompt or a pair becomes tokens. The tokens of a prompt are those of its
text; a response has the tokens that follow them in the text of both, and where a token would straddle the boundary,
the tokens of its own text. What a long prompt loses is one rule too: :func:`cut_prompt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fedvpa.core.errors import DataError
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Pair, Text
from fedvpa.models.chat_template import template_fingerprint
from fedvpa.models.rendering import Rendered, Renderer
from fedvpa.models.tokens import Ids

SAME_TOKENS = "both responses have the same tokens once they are rendered and cut"
"""Why a pair is left out: there is nothing in it to learn or to order."""

AT_ONCE = 1024
"""Pairs that are rendered and tokenised in one call."""


@dataclass(frozen=True, slots=True, repr=False)
class PromptIds:
    """The tokens of a prompt.

    Attributes:
        head: Special tokens in front (BOS), which are never cut: those that the chat template wrote, or that the
            tokenizer puts in front of a string.
        ids: The tokens behind them.
    """

    head: tuple[int, ...]
    ids: Ids

    __repr__ = short_repr


@dataclass(frozen=True, slots=True, repr=False)
class PairIds:
    """The tokens of a pair, whole.

    Attributes:
        prompt: Of the prompt.
        chosen: Of the chosen response, with the end of turn that a chat template wrote.
        rejected: Of the other one.
        conversation: Whether a chat template wrote them.
        spells: Whether a text spells a control token, which is read as text.
    """

    prompt: PromptIds
    chosen: Ids
    rejected: Ids
    conversation: bool
    spells: bool

    __repr__ = short_repr


@dataclass(frozen=True)
class TextEncoder:
    """Texts → tokens of one tokenizer.

    Attributes:
        renderer: Writes the texts.
        before: Special tokens that the tokenizer puts in front of a string.
        joined: Whether a response stands directly behind its prompt, as in decoder-only models.
    """

    renderer: Renderer
    before: tuple[int, ...] = ()
    joined: bool = True

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self.renderer.tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """See :func:`~fedvpa.models.chat_template.template_fingerprint`."""
        return template_fingerprint(self.tokenizer, self.renderer.arguments)

    def prompt(self, text: Text) -> PromptIds:
        """The tokens of a prompt that waits for its response. Raises as :meth:`Renderer.open`."""
        opened = self.renderer.open(text)
        (ids,) = self.encode([opened.prompt], sealed=opened.sealed)
        return self._split(ids, opened.conversation)

    def pairs(self, pairs: Sequence[Pair], *, refused: dict[int, DataError] | None = None) -> Iterator[PairIds]:
        """The tokens of pairs, in order.

        Args:
            pairs: What to read.
            refused: Where pairs are noted that the chat template refuses, by their place. A stand-in without content
                takes the place of each, so that the others keep theirs.

        Raises:
            DataError: If the chat template refuses a conversation and ``refused`` is not given; names the row.
            ModelError: If a conversation meets a tokenizer without a usable chat template.
        """
        for start in range(0, len(pairs), AT_ONCE):
            rendered: dict[int, Rendered] = {}
            for row, pair in enumerate(pairs[start : start + AT_ONCE]):
                try:
                    rendered[row] = self._rendered(pair, start + row)
                except DataError as error:
                    if refused is None:
                        raise
                    refused[start + row] = error
            found: dict[int, PairIds] = {}
            for sealed in (False, True):
                rows = [row for row, one in rendered.items() if one.sealed == sealed]
                found |= dict(zip(rows, self._encoded([rendered[row] for row in rows], sealed), strict=True))
            blank = self.stand_in()
            yield from (found.get(row, blank) for row in range(len(pairs[start : start + AT_ONCE])))

    def encode(self, texts: Sequence[str], *, sealed: bool = False) -> list[Ids]:
        """The tokens of texts as they are; nothing is put in front or behind."""
        if not texts:
            return []
        if sealed:
            ids = self.renderer.controls.encode(texts)
        else:
            ids = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [np.asarray(one, dtype=np.int32) for one in ids]

    def stand_in(self) -> PairIds:
        """Two equal responses of one token, for a pair that cannot be read."""
        one = np.zeros(1, dtype=np.int32)
        return PairIds(PromptIds(self.before, one[:0]), one, one, conversation=False, spells=False)

    def _rendered(self, pair: Pair, row: int) -> Rendered:
        try:
            return self.renderer.render(pair)
        except DataError as error:
            raise DataError(error.problem, fix=error.fix, where=error.where or place_of(pair, row)) from error.__cause__

    def _encoded(self, rendered: Sequence[Rendered], sealed: bool) -> list[PairIds]:
        prompts = self.encode([one.prompt for one in rendered], sealed=sealed)
        sides = [
            self._responses([(one.prompt, text) for one, text in zip(rendered, texts, strict=True)], prompts, sealed)
            for texts in ([one.chosen for one in rendered], [one.rejected for one in rendered])
        ]
        return [
            PairIds(self._split(ids, one.conversation), chosen, rejected, one.conversation, one.sealed)
            for one, ids, chosen, rejected in zip(rendered, prompts, *sides, strict=True)
        ]

    def _responses(self, texts: Sequence[tuple[str, str]], prompts: Sequence[Ids], sealed: bool) -> list[Ids]:
        """The tokens of responses behind their prompts."""
        if not self.joined:
            return self.encode([response for _, response in texts], sealed=sealed)
        wholes = self.encode([prompt + response for prompt, response in texts], sealed=sealed)
        found = [
            whole[len(prompt) :] if np.array_equal(whole[: len(prompt)], prompt) else None
            for whole, prompt in zip(wholes, prompts, strict=True)
        ]
        straddling = [row for row, ids in enumerate(found) if ids is None]
        alone = dict(zip(straddling, self.encode([texts[row][1] for row in straddling], sealed=sealed), strict=True))
        return [alone[row] if ids is None else ids for row, ids in enumerate(found)]

    def _split(self, ids: Ids, conversation: bool) -> PromptIds:
        """Special tokens in front of a prompt, and the rest; a text that brings its BOS gets no second one."""
        if not self.joined:
            return PromptIds(self.before, ids)
        written = conversation or self.renderer.kind == "rendered"
        bos = self.tokenizer.bos_token_id
        for head in (self.before, () if bos is None else (int(bos),)):
            if written and head and tuple(ids[: len(head)].tolist()) == head:
                return PromptIds(head, ids[len(head) :])
        return PromptIds(() if conversation else self.before, ids)


def cut_prompt(ids: Ids, room: int) -> Ids:
    """A prompt without the special tokens in front, cut to ``room`` tokens on the left, where its oldest turns are."""
    return ids[max(0, len(ids) - max(0, room)) :]


def place_of(pair: Pair, row: int) -> str:
    """Where a pair stands, for messages: its file and row, or its number and name."""
    return pair.place or f"row {row}" + (f" ({pair.pair_id!r})" if pair.pair_id else "")
