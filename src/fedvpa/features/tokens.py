"""Pairs → token rows: rendered, tokenised, truncated and framed, with every truncation counted."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.errors import DataError, ModelError
from fedvpa.data.schema import Message, Pair, Text

Kind = Literal["causal", "encoder"]
Ids = NDArray[np.int32]

TOKENISED_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """The special tokens that a model expects around its input.

    Attributes:
        before: In front of the prompt: BOS or [CLS]; empty for many decoder-only models.
        between: Between prompt and response: [SEP]; empty for decoder-only models.
        after: Behind the response: [SEP]; empty for decoder-only models, since causal states cannot see it.
        response_type: Token type of the response and of ``after`` (the prompt's is 0); None if the model has no types.
    """

    before: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    response_type: int | None = None

    def __len__(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


@dataclass(frozen=True, slots=True)
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

    @property
    def packed(self) -> int:
        """Tokens of the row that holds the prefix once and both responses."""
        return len(self.prefix) + len(self.chosen) + len(self.rejected)

    @property
    def longest(self) -> int:
        """Tokens of the longer of the two sequences prefix + response."""
        return len(self.prefix) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What tokenisation kept and what it cut.

    Attributes:
        prompt_tokens: Tokens kept in prompts, special tokens not counted.
        response_tokens: Tokens kept in both responses.
        prompts_truncated: Prompts that lost tokens on the left.
        responses_truncated: Responses (of 2 per pair) that lost tokens on the right.
    """

    prompt_tokens: int = 0
    response_tokens: int = 0
    prompts_truncated: int = 0
    responses_truncated: int = 0

    def __add__(self, other: TokenCounts) -> TokenCounts:
        return TokenCounts(
            self.prompt_tokens + other.prompt_tokens,
            self.response_tokens + other.response_tokens,
            self.prompts_truncated + other.prompts_truncated,
            self.responses_truncated + other.responses_truncated,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """How many tokens a row may have.

    Attributes:
        prompt: Longer prompts lose tokens on the left.
        response: Longer responses lose tokens on the right.
        positions: Positions of the model, special tokens included; None if it has no fixed number. Responses are cut to
            fit first; where prompt and longer response do not fit together, the prompt is cut further, alike for both
            responses. Every cut is counted.
    """

    prompt: int
    response: int
    positions: int | None = None


def frame_of(tokenizer: Any, kind: Kind) -> Frame:
    """Read off the special tokens that ``tokenizer`` puts around one text (causal) or between two (encoder).

    Raises:
        ModelError: If the tokenizer cannot tell special tokens from text.
    """
    if not tokenizer.is_fast:
        raise ModelError(
            f"The tokenizer {type(tokenizer).__name__} has no fast version, which is needed to locate special tokens.",
            fix="Save it with a tokenizer.json.",
        )
    encoded = tokenizer("a") if kind == "causal" else tokenizer("a", "a")
    ids, sides = encoded["input_ids"], encoded.sequence_ids(0)
    prompt, response = _span(sides, 0), _span(sides, 1)
    if prompt is None or (kind == "encoder" and response is None):
        raise ModelError("The tokenizer turns the text 'a' into no tokens.", fix="Use a tokenizer of natural language.")
    if response is None:
        return Frame(before=tuple(ids[: prompt.start]))
    types = encoded.get("token_type_ids")
    return Frame(
        before=tuple(ids[: prompt.start]),
        between=tuple(ids[prompt.stop : response.start]),
        after=tuple(ids[response.stop :]),
        response_type=None if types is None else types[response.start],
    )


def _span(sides: Sequence[int | None], side: int) -> slice | None:
    """Where the tokens of one input lie."""
    places = [place for place, value in enumerate(sides) if value == side]
    return slice(places[0], places[-1] + 1) if places else None


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


@dataclass(frozen=True, slots=True)
class Rendered:
    """The texts of a pair as they are tokenised; ``conversation`` if a chat template wrote them."""

    prompt: str
    chosen: str
    rejected: str
    conversation: bool


def render(pair: Pair, tokenizer: Any, template: str) -> Rendered:
    """The texts of ``pair``.

    Plain strings stay as they are under the ``plain`` template. Everything else becomes a conversation that the
    tokenizer's chat template writes: the response is what the template appends to the prompt, its end-of-turn mark
    included.

    Raises:
        ModelError: If a conversation meets a tokenizer without a chat template.
    """
    prompt, chosen, rejected = pair.prompt, pair.chosen, pair.rejected
    if template == "plain" and isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        return Rendered(prompt, chosen, rejected, conversation=False)
    if not tokenizer.chat_template:
        raise ModelError(
            "The pairs are conversations (or template is 'chat'), but this model's tokenizer has no chat template.",
            fix="Use a chat model, or give prompt, chosen and rejected as strings with template 'plain'.",
        )
    turns = _messages(prompt, "user")
    opened = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    first, second = (
        tokenizer.apply_chat_template(turns + _messages(response, "assistant"), tokenize=False)
        for response in (chosen, rejected)
    )
    # Some templates write the generation prompt differently from a finished turn: what all three share is the prompt.
    shared = _common_prefix(opened, first, second)
    return Rendered(opened[:shared], first[shared:], second[shared:], conversation=True)


def _common_prefix(*texts: str) -> int:
    """How many leading characters all ``texts`` share."""
    return next(
        (place for place, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1),
        min(map(len, texts)),
    )


def _messages(text: Text, role: str) -> list[dict[str, str]]:
    """A text as the messages that chat templates take; a string is one message of ``role``."""
    turns = (Message(role, text),) if isinstance(text, str) else text
    return [{"role": turn.role, "content": turn.content} for turn in turns]
