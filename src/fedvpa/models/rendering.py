"""Texts as they are tokenised: strings as they are, conversations by the tokenizer's chat template.

The prompt of a conversation is what the template writes with its generation prompt, for training, generation, features
and judging alike, and a response is what the template writes behind the assistant's header, its end of turn included.
Where the header of a finished turn is not the generation prompt (a template that opens a thought), the response still
stands behind the generation prompt, as it does when it is sampled; :func:`header_warning` says so.

A prompt that ends in an assistant turn is one that the response continues: the turn stays open.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from fedvpa.core.errors import DataError
from fedvpa.core.prefix import common_prefix
from fedvpa.core.progress import say
from fedvpa.data.schema import Message, Pair, Text
from fedvpa.data.text import as_messages
from fedvpa.models.chat_template import SECOND, ChatTemplate
from fedvpa.models.controls import SEAM, ControlTokens
from fedvpa.models.template_config import TemplateKind


@dataclass(frozen=True, slots=True)
class Rendered:
    """The texts of a pair as they are tokenised.

    Attributes:
        prompt: Up to where the response begins.
        chosen: What follows it.
        rejected: The other one.
        conversation: Whether a chat template wrote them.
        sealed: Whether the template's control tokens are sealed, see :mod:`fedvpa.models.controls`; so they are where a
            text spells a control token.
    """

    prompt: str
    chosen: str
    rejected: str
    conversation: bool
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """A prompt as it is tokenised; attributes as of :class:`Rendered`."""

    prompt: str
    conversation: bool
    sealed: bool = False


@dataclass(frozen=True)
class Renderer:
    """Writes prompts and pairs for one tokenizer.

    Attributes:
        tokenizer: A Hugging Face tokenizer.
        kind: How strings are read.
        arguments: Of the chat template.
    """

    tokenizer: Any
    kind: TemplateKind = "plain"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def template(self) -> ChatTemplate:
        """The tokenizer's chat template."""
        return ChatTemplate(self.tokenizer, self.arguments)

    @cached_property
    def controls(self) -> ControlTokens:
        """What no content may become."""
        return ControlTokens.of(self.template)

    def open(self, prompt: Text) -> Opened:
        """A prompt that waits for its response.

        Raises:
            ModelError: If a conversation meets a tokenizer without a usable chat template.
            DataError: If the template refuses the conversation.
        """
        if isinstance(prompt, str) and self.kind != "chat":
            sealed = self._spells([prompt])
            return Opened(self.controls.seal(self.controls.quote(prompt)) if sealed else prompt, False, sealed)
        messages = self._conversation(prompt)
        sealed = self._spells(messages)
        written = self._opened(self._turns(messages, sealed))
        return Opened(self.controls.seal(written) if sealed else written, True, sealed)

    def render(self, pair: Pair) -> Rendered:
        """The texts of a pair. Raises as :meth:`open`."""
        prompt, chosen, rejected = pair.prompt, pair.chosen, pair.rejected
        if isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str) and self.kind != "chat":
            sealed = self._spells([prompt + chosen, prompt + rejected])
            if sealed:
                prompt, chosen, rejected = (
                    self.controls.seal(self.controls.quote(text)) for text in (prompt, chosen, rejected)
                )
            return Rendered(prompt, chosen, rejected, False, sealed)
        messages = self._conversation(prompt)
        answers = [as_messages(text, "assistant") for text in (chosen, rejected)]
        sealed = self._spells([turn for answer in answers for turn in _joined(messages, answer)])
        turns = self._turns(messages, sealed)
        opened, seam = self._opened(turns), SEAM if sealed else ""
        first, second = (self._response(opened, turns, self._turns(answer, sealed), seam) for answer in answers)
        if sealed:
            opened, first, second = (self.controls.seal(text) for text in (opened, first, second))
        return Rendered(opened, first, second, True, sealed)

    def whole(self, prompt: Text, response: Text) -> Opened:
        """A finished conversation, as a reward model reads it. Raises as :meth:`open`."""
        messages, answer = self._conversation(prompt), as_messages(response, "assistant")
        sealed = self._spells(_joined(messages, answer))
        turns = _joined(self._turns(messages, sealed), self._turns(answer, sealed), SEAM if sealed else "")
        written = self.template.write(turns, opened=False)
        return Opened(self.controls.seal(written) if sealed else written, True, sealed)

    def _conversation(self, prompt: Text) -> tuple[Message, ...]:
        """The messages of a prompt."""
        messages = as_messages(prompt, "user")
        if any(message.role == "system" for message in messages):
            frame = self.template.frame()
            if frame is not None and frame.system is False:
                raise DataError(
                    "the conversation has a system turn, and the model's chat template leaves such turns out.",
                    fix="Leave them out, or put their text into the first user turn.",
                )
        return messages

    def _spells(self, texts: Sequence[str | Message]) -> bool:
        """Whether any text spells a control token that it must not become."""
        if self.kind == "rendered" and all(isinstance(text, str) for text in texts):
            return False
        return any(
            self.controls.spelled_in(text)
            if isinstance(text, str)
            else self.controls.spelled_in(text.content, text.role)
            for text in texts
        )

    def _turns(self, messages: Sequence[Message], sealed: bool) -> list[Message]:
        """Messages as the template gets them."""
        if not sealed:
            return list(messages)
        return [Message(one.role, self.controls.quote(one.content, one.role)) for one in messages]

    def _opened(self, turns: Sequence[Message]) -> str:
        """What the template writes up to where a response begins."""
        if not turns or turns[-1].role != "assistant":
            return self.template.write(turns, opened=True)
        marked = Message("assistant", turns[-1].content + SECOND)
        opened, mark, _ = self.template.write([*turns[:-1], marked], opened=False).partition(SECOND)
        if not mark:
            raise DataError(
                "the prompt ends in an assistant turn, and the model's chat template leaves out how that turn begins, "
                "so no response can continue it.",
                fix="Leave that turn out, or use another model.",
            )
        return opened

    def _response(self, opened: str, turns: Sequence[Message], answer: Sequence[Message], seam: str) -> str:
        """What the template writes behind ``opened`` for an answer."""
        whole = self.template.write(_joined(turns, answer, seam), opened=False)
        if whole.startswith(opened):
            return whole[len(opened) :]
        if answer and not _continues(turns, answer):
            blank = [Message(answer[0].role, SECOND), *answer[1:]]
            header = self.template.write([*turns, *blank], opened=False).partition(SECOND)[0]
            if whole.startswith(header):
                return whole[len(header) :]
        return whole[common_prefix(opened, whole) :]


@lru_cache(maxsize=8)
def say_header(tokenizer: Any, arguments: str) -> None:
    """Say :func:`header_warning` of a tokenizer and the arguments of its template, as JSON; once in a process."""
    if warning := header_warning(ChatTemplate(tokenizer, json.loads(arguments))):
        say(warning)


def header_warning(template: ChatTemplate) -> str:
    """One line about a template whose generation prompt is not the header of its finished turns; empty if it is."""
    frame = template.frame()
    if frame is None or frame.differing is None:
        return ""
    generation, finished = frame.differing
    return (
        f"the chat template's generation prompt ends in {generation!r}, and finished assistant turns have {finished!r} "
        "there: responses are read, trained and sampled behind the generation prompt; features.template_arguments "
        "(such as enable_thinking) may choose another one"
    )


def is_conversational(texts: Sequence[Text]) -> bool:
    """Whether data are conversations: most of these prompts are lists of messages."""
    return 2 * sum(not isinstance(text, str) for text in texts) > len(texts)


def _continues(turns: Sequence[Message], answer: Sequence[Message]) -> bool:
    return bool(turns and answer) and turns[-1].role == "assistant" == answer[0].role


def _joined(turns: Sequence[Message], answer: Sequence[Message], seam: str = "") -> list[Message]:
    """A prompt and its answer as one conversation; an answer to an open assistant turn is its continuation.

    ``seam`` keeps the two parts of such a turn from making a control token together.
    """
    if not _continues(turns, answer):
        return [*turns, *answer]
    return [*turns[:-1], Message("assistant", turns[-1].content + seam + answer[0].content), *answer[1:]]
