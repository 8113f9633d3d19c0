"""A pair as the texts that are tokenised: plain strings as they are, conversations by the chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedvpa.core.errors import ModelError
from fedvpa.data.schema import Message, Pair, Text


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
