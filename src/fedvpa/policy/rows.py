"""Prompts and responses as token rows, with room in each row for what z puts before the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from fedvpa.core.errors import DataError, ModelError
from fedvpa.core.progress import say
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Pair, Text
from fedvpa.models.rendering import open_conversation, render
from fedvpa.models.tokens import TokenCounts, frame_of

Ids = NDArray[np.int32]
Flags = NDArray[np.bool_]
IGNORED = -100
"""The label of a token that is not scored, as transformers and TRL have it."""


@dataclass(frozen=True, slots=True, repr=False)
class Batch:
    """Token rows of one shape.

    Attributes:
        ids: Token ids; at the slots and at padding, the padding token.
        attention: 1 where a row has a token or a slot.
        labels: Token ids of the responses, ``IGNORED`` elsewhere.
        sure: Whether a token of a response is one that the reference policy was sure of; False elsewhere.
        first: The first slot of each row.
    """

    ids: Int[Tensor, "batch time"]
    attention: Int[Tensor, "batch time"]
    labels: Int[Tensor, "batch time"]
    sure: Bool[Tensor, "batch time"]
    first: Int[Tensor, " batch"]

    __repr__ = short_repr

    def to(self, device: torch.device) -> Batch:
        """The same rows on another device."""
        return Batch(*(part.to(device) for part in (self.ids, self.attention, self.labels, self.sure, self.first)))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie in a row: [bos] slots prompt response.

    Attributes:
        before: Special tokens in front of every prompt (BOS); empty for many models.
        slots: Virtual tokens between them and the prompt.
        pad: The padding token.
    """

    before: tuple[int, ...]
    slots: int
    pad: int

    def rows(
        self, prompts: Sequence[Ids], responses: Sequence[Ids] | None = None, sure: Sequence[Flags] | None = None
    ) -> Batch:
        """One row per prompt: padded on the right with responses (to score), on the left without (to generate)."""
        empty = np.zeros(0, np.int32)
        tails = [empty] * len(prompts) if responses is None else list(responses)
        width = max(len(prompt) + len(tail) for prompt, tail in zip(prompts, tails, strict=True))
        width += len(self.before) + self.slots
        ids = np.full((len(prompts), width), self.pad, dtype=np.int64)
        attention, labels = np.zeros_like(ids), np.full_like(ids, IGNORED)
        first, marked = np.zeros(len(prompts), dtype=np.int64), np.zeros(ids.shape, dtype=bool)
        gap = np.full(self.slots, self.pad, np.int32)
        for place, (prompt, tail) in enumerate(zip(prompts, tails, strict=True)):
            row = np.concatenate([np.asarray(self.before, np.int32), gap, prompt, tail])
            start = width - len(row) if responses is None else 0
            stop = start + len(row)
            ids[place, start:stop], attention[place, start:stop] = row, 1
            labels[place, stop - len(tail) : stop] = tail
            if sure is not None:
                marked[place, stop - len(tail) : stop] = sure[place]
            first[place] = start + len(self.before)
        return Batch(*(torch.from_numpy(part) for part in (ids, attention, labels, marked, first)))


@dataclass(frozen=True, repr=False)
class PolicyTokenizer:
    """Texts ↔ tokens of one policy.

    Attributes:
        base: A fast Hugging Face tokenizer.
        before: The special tokens in front of a prompt.
        max_prompt_tokens: Longer prompts lose tokens on the left.
        max_tokens: Special tokens, prompt and response together: responses of a data set that do not fit lose tokens on
            the right. None for no limit.
    """

    base: object
    before: tuple[int, ...]
    max_prompt_tokens: int
    max_tokens: int | None = None

    __repr__ = short_repr

    @classmethod
    def of(cls, tokenizer: object, max_prompt_tokens: int, max_tokens: int | None = None) -> PolicyTokenizer:
        """Read the special tokens off a tokenizer.

        Raises:
            ModelError: If it has no end-of-text token: a policy could not learn to stop.
        """
        if getattr(tokenizer, "eos_token_id", None) is None:
            raise ModelError("The policy's tokenizer has no end-of-text token, so no response could end.")
        return cls(tokenizer, frame_of(tokenizer, "causal").before, max_prompt_tokens, max_tokens)

    @property
    def eos(self) -> int:
        """The token that ends a response."""
        return int(self.base.eos_token_id)  # type: ignore[attr-defined]

    @property
    def pad(self) -> int:
        """The padding token; masked, so its value does not matter."""
        pad = self.base.pad_token_id  # type: ignore[attr-defined]
        return self.eos if pad is None else int(pad)

    def layout(self, slots: int) -> Layout:
        """Rows with so many slots."""
        return Layout(self.before, slots, self.pad)

    def prompts(self, texts: Sequence[Text]) -> list[Ids]:
        """The tokens of prompts: strings as they are, conversations by the chat template.

        Raises:
            DataError: If a prompt has no token, and the tokenizer puts none in front.
        """
        return [self._cut(self.encode(self._opened(text)), text) for text in texts]

    def pairs(self, pairs: Sequence[Pair]) -> tuple[list[tuple[Ids, Ids, Ids]], TokenCounts]:
        """The tokens of prompt, chosen and rejected response of each pair, and what was kept and cut.

        Each response ends with end-of-text or end-of-turn, unless it is cut. Raises as :meth:`prompts`.
        """
        found, counts = [], TokenCounts()
        for pair in pairs:
            rendered = render(pair, self.base, "plain")
            whole = self.encode(rendered.prompt)
            prompt = self._cut(whole, pair.prompt)
            room = None if self.max_tokens is None else self.max_tokens - len(self.before) - len(prompt)
            end = np.zeros(0, np.int32) if rendered.conversation else np.asarray([self.eos], np.int32)
            full = [np.concatenate([self.encode(text), end]) for text in (rendered.chosen, rendered.rejected)]
            chosen, rejected = (response[:room] for response in full)
            found.append((prompt, chosen, rejected))
            counts += TokenCounts(
                prompt_tokens=len(prompt),
                response_tokens=len(chosen) + len(rejected),
                prompts_truncated=int(len(prompt) < len(whole)),
                responses_truncated=(len(chosen) < len(full[0])) + (len(rejected) < len(full[1])),
            )
        return found, counts

    def text(self, ids: Sequence[int] | Ids) -> str:
        """What tokens say, special ones left out."""
        decoded = self.base.decode(list(map(int, ids)), skip_special_tokens=True)  # type: ignore[attr-defined]
        return str(decoded)

    def encode(self, text: str) -> Ids:
        """The tokens of a text as it is, without the special ones in front."""
        encoded = self.base(text, add_special_tokens=False, verbose=False)  # type: ignore[operator]
        ids = np.asarray(encoded["input_ids"], dtype=np.int32)
        # A chat template writes its own BOS; the layout puts it before the slots.
        return ids[len(self.before) :] if self.before and tuple(ids[: len(self.before)]) == self.before else ids

    def _opened(self, text: Text) -> str:
        return text if isinstance(text, str) else open_conversation(text, self.base)[1]

    def _cut(self, ids: Ids, text: Text) -> Ids:
        if not len(ids) and not self.before:
            raise DataError(
                f"The prompt {text!r} has no tokens, and this policy's tokenizer puts none in front: a response would "
                "follow nothing.",
                fix="Give a prompt with text.",
            )
        return ids[max(0, len(ids) - self.max_prompt_tokens) :]


def say_cuts(counts: TokenCounts, whose: str) -> None:
    """One line on stderr if texts lost tokens."""
    if counts.prompts_truncated or counts.responses_truncated:
        say(f"{whose}, cut to fit: {counts.prompts_truncated} prompts, {counts.responses_truncated} responses")
