"""Texts as they are tokenised: plain strings as they are, conversations by the tokenizer's chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedvpa.core.errors import ModelError
from fedvpa.data.schema import Pair, Text
from fedvpa.data.text import as_messages


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
    messages, opened = open_conversation(prompt, tokenizer)
    first, second = (
        tokenizer.apply_chat_template(messages + chat_messages(response, "assistant"), tokenize=False)
        for response in (chosen, rejected)
    )
    # Some templates write the generation prompt differently from a finished turn: what all three share is the prompt.
    shared = _common_prefix(opened, first, second)
    return Rendered(opened[:shared], first[shared:], second[shared:], conversation=True)


def open_conversation(prompt: Text, tokenizer: Any) -> tuple[list[dict[str, str]], str]:
    """A prompt as a conversation that waits for the assistant's response.

    Args:
        prompt: Messages, or a string, which becomes one message of the user.
        tokenizer: Its chat template writes the text.

    Returns:
        The prompt's messages, and the text that the template makes of them, the generation prompt included.

    Raises:
        ModelError: If the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            "The prompt is a conversation (or template is 'chat'), but this model's tokenizer has no chat template.",
            fix="Use a chat model, or give prompts and responses as strings with template 'plain'.",
        )
    messages = chat_messages(prompt, "user")
    return messages, str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def chat_messages(text: Text, role: str) -> list[dict[str, str]]:
    """A text as the messages that chat templates take; a string is one message of ``role``."""
    return [{"role": message.role, "content": message.content} for message in as_messages(text, role)]


def _common_prefix(*texts: str) -> int:
    """How many leading characters all ``texts`` share."""
    return next(
        (place for place, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1),
        min(map(len, texts)),
    )
