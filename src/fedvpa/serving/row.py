"""One answer while it is drawn: its draws, its text, its log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedvpa.core.errors import FedvpaError
from fedvpa.policy.drawing import uniforms
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import PolicyTokenizer
from fedvpa.serving.generation import Generation
from fedvpa.serving.requests import Finish, Piece, TokenLogprob
from fedvpa.serving.text import TextStream

Left = tuple["Row", FedvpaError | None]
"""A row that is not drawn any more, and what went wrong with it."""


class Row:
    """One answer while it is drawn.

    Args:
        policy: Whose answer; its slots count as tokens of the prompt.
        generation: Where the pieces go.
    """

    def __init__(self, policy: Policy, generation: Generation) -> None:
        request = generation.request
        self.generation, self.request = generation, request
        self.base = request.base
        slots = 0 if request.base or policy.conditioner is None else policy.conditioner.slots
        self.prompt_tokens = len(request.prompt) + slots
        self.longest = self.prompt_tokens + request.sampling.max_new_tokens
        """Tokens that the row may come to."""
        self.drawn, self.began = 0, 0.0
        self.finished = False
        self._tokenizer: PolicyTokenizer = policy.tokenizer
        self._numbers: np.ndarray | None = None
        self._stream: TextStream | None = None
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []

    def begin(self, now: float) -> None:
        """Name the draws, as ``Policy.generate`` names them; ``now`` by the monotonic clock."""
        self.began = now
        request = self.request
        longest = request.sampling.max_new_tokens
        self._numbers = uniforms([request.prompt], [0], longest, request.seed, "generate")[0].astype(np.float32)
        self._stream = TextStream(self._tokenizer, (*request.stop, *self._tokenizer.stop_texts(request.prompt)))

    def number(self) -> float:
        """By which the next token is drawn."""
        assert self._numbers is not None
        return float(self._numbers[self.drawn])

    def add(self, token: int, logprob: float | None = None, top: Sequence[tuple[int, float]] = ()) -> None:
        """One more token, and what it says to the reader."""
        assert self._stream is not None
        self.drawn += 1
        self._ids.append(token)
        if logprob is not None:
            likely = tuple((other, self._word(other), value) for other, value in top)
            self._logprobs.append(TokenLogprob(token, self._word(token), logprob, likely))
        text = self._stream.add(token)
        length = not self._stream.ended and self.drawn == self.request.sampling.max_new_tokens
        if length:
            text += self._stream.rest()
        self.finished = length or self._stream.ended
        if text or self.finished:
            finish: Finish | None = None if not self.finished else "length" if length else "stop"
            self.generation.put(Piece(text, tuple(self._ids), tuple(self._logprobs), finish))
            self._ids, self._logprobs = [], []

    def _word(self, token: int) -> str:
        return str(self._tokenizer.base.decode([token]))
