"""What every reader of tokens shares: special tokens around a text, limits, and counts of what was cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.errors import ModelError
from fedvpa.models.architecture import Kind

Ids = NDArray[np.int32]


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
