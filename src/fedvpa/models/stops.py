"""Where a response ends: the tokens and the texts behind which nothing of it follows.

The set is made of the tokenizer's end-of-text token, the model's own list (``eos_token_id`` of its configuration and of
its generation configuration), what the chat template writes behind an assistant's turn, and, for prompts in the format
of transcripts, the header of the next human turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fedvpa.data.text import ASSISTANT, HUMAN
from fedvpa.models.chat_template import TurnFrame
from fedvpa.models.controls import ControlTokens


@dataclass(frozen=True, slots=True)
class Stops:
    """What ends a response.

    Attributes:
        tokens: Any of these tokens, which belongs to the response.
        texts: (text in the prompt, text that ends the response): the second counts where the prompt holds the first,
            and does not belong to the response.
    """

    tokens: tuple[int, ...]
    texts: tuple[tuple[str, str], ...] = ((ASSISTANT, HUMAN),)

    def texts_for(self, prompt: str) -> tuple[str, ...]:
        """The texts that end a response to a prompt."""
        return tuple(dict.fromkeys(end for sign, end in self.texts if sign in prompt))


def stops_of(controls: ControlTokens, frame: TurnFrame | None, *configurations: Any) -> Stops:
    """The stop set of a model.

    Args:
        controls: The control tokens of its tokenizer.
        frame: What its chat template writes around turns; None without one.
        *configurations: Its configuration and generation configuration; their ``eos_token_id`` counts.
    """
    tokenizer, texts = controls.tokenizer, [(ASSISTANT, HUMAN)]
    tokens = [tokenizer.eos_token_id, *(getattr(one, "eos_token_id", None) for one in configurations)]
    if frame is not None:
        mark = _first_control(controls, frame.end) or _first_control(controls, frame.between)
        text = frame.end.strip() or frame.between.rstrip()
        if mark is not None:
            tokens.append(tokenizer.convert_tokens_to_ids(mark))
        elif text and frame.generation.strip():
            texts.append((frame.generation.rstrip(), text))
    return Stops(tuple(sorted(set(_flat(tokens)))), tuple(dict.fromkeys(texts)))


def _first_control(controls: ControlTokens, text: str) -> str | None:
    """The control token that a text has first; the longer one where two begin alike."""
    places = [(text.find(name), -len(name), name) for name in controls.answers if name in text]
    return min(places)[2] if places else None


def _flat(values: Iterable[Any]) -> list[int]:
    """Token ids, of which some are None and some are lists."""
    found: list[int] = []
    for value in values:
        if isinstance(value, list | tuple):
            found += _flat(value)
        elif value is not None:
            found.append(int(value))
    return found
