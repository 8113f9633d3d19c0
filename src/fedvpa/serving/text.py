"""Tokens as text while they are drawn: whole characters only, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from fedvpa.policy.rows import PolicyTokenizer


class TextStream:
    """The text of one answer, which grows token by token.

    Args:
        tokenizer: Reads the tokens.
        stops: Texts that end the answer.
    """

    def __init__(self, tokenizer: PolicyTokenizer, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._ends = frozenset(tokenizer.stops.tokens)
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._said = ""
        self._held = ""
        self.ended = False
        """Whether a token or a text has ended the answer."""

    def add(self, token: int) -> str:
        """The text that is certain with one more token: what it completes, less what may begin a stop text."""
        if token in self._ends:
            self.ended = True
            return self.rest()
        self._ids.append(token)
        self._held += self._step(token)
        cut = self._cut()
        if cut is not None:
            self.ended = True
            self._held = self._held[:cut]
        return self._shown(len(self._held) if self.ended else len(self._held) - self._beginning())

    def _step(self, token: int) -> str:
        backend = self._tokenizer.base.backend_tokenizer
        try:
            return self._decoder.step(backend, token) or ""
        except Exception:  # the library has no class of its own for bytes that change what was decoded before them
            self._decoder = DecodeStream(skip_special_tokens=True)
            return self._decoder.step(backend, token) or ""

    def rest(self) -> str:
        """What was held back, when no further token comes: also the parts of a character that nothing completes."""
        whole = self._tokenizer.text(self._ids)
        if whole.startswith(self._said + self._held):
            self._held = whole[len(self._said) :]
        cut = self._cut()
        return self._shown(len(self._held) if cut is None else cut)

    def _cut(self) -> int | None:
        """Where the first stop text begins in what is held."""
        return min((place for place in map(self._held.find, self._stops) if place >= 0), default=None)

    def _beginning(self) -> int:
        """How many characters at the end may be the beginning of a stop text."""
        return max((_overlap(self._held, stop) for stop in self._stops), default=0)

    def _shown(self, count: int) -> str:
        shown, self._held = self._held[:count], self._held[count:]
        self._said += shown
        return shown


def _overlap(text: str, stop: str) -> int:
    """The longest end of ``text`` that ``stop`` begins with, shorter than ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
