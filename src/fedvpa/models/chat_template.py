"""A tokenizer's chat template: where it is applied, where its errors are caught, and what it writes around a turn.

The template is code that came with the model, so anything may go wrong in it. Every call goes through
:meth:`ChatTemplate.write`, which turns what the template raises into one message. The date that a template may print
is pinned: the same conversation has the same tokens on every day.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

from jinja2 import TemplateError

from fedvpa.core.errors import DataError, ModelError
from fedvpa.core.prefix import common_prefix
from fedvpa.data.schema import Message
from fedvpa.models.template_config import DATE, DATE_ARGUMENT, checked_arguments

CLOCK = "strftime_now"
"""What a template asks for the date, as transformers gives it to templates."""

FOREIGN = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What the code of a template raises: its own errors, and those of the operations in it."""

FIRST, SECOND, THIRD = "\ufdd4\ufdd5", "\ufdd4\ufdd6\ufdd5", "\ufdd4\ufdd7\ufdd5"
"""Contents that a probe looks for: noncharacters of Unicode, which no text and no template holds."""


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer, with the arguments that it is called with.

    Attributes:
        tokenizer: A Hugging Face tokenizer; its ``chat_template`` may be missing.
        arguments: Further arguments of the template, such as ``enable_thinking``.
    """

    tokenizer: Any
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def write(self, messages: Sequence[Message], *, opened: bool) -> str:
        """A conversation as one text.

        Args:
            messages: Its turns.
            opened: Whether the generation prompt follows, behind which the assistant's response begins.

        Raises:
            ModelError: If the tokenizer has no chat template, or it can write no conversation at all.
            DataError: If the template refuses this conversation.
            ConfigError: If an argument cannot be given to a template.
        """
        if not self.tokenizer.chat_template:
            raise ModelError(
                "The prompt is a conversation (or template is 'chat'), but the model's tokenizer has no chat template.",
                fix="Use a chat model, or give prompts and responses as strings with template 'plain'.",
                where=str(getattr(self.tokenizer, "name_or_path", "")),
            )
        checked_arguments(self.arguments)
        try:
            return self._write(messages, opened)
        except FOREIGN as error:
            raise self._refusal(messages, error) from error

    def _write(self, messages: Sequence[Message], opened: bool) -> str:
        given = {name: value for name, value in self.arguments.items() if name != DATE_ARGUMENT}
        template = self.tokenizer.get_chat_template()
        return str(
            self.tokenizer.apply_chat_template(
                [{"role": turn.role, "content": turn.content} for turn in messages],
                chat_template=_pinned(template, str(self.arguments.get(DATE_ARGUMENT, DATE))),
                tokenize=False,
                add_generation_prompt=opened,
                **given,
            )
        )

    def served(self) -> str | None:
        """A template that writes by itself what :meth:`write` does, for other programs; None without a template.

        The date is pinned in it, and its arguments are defaults that a caller can still change.
        """
        if not self.tokenizer.chat_template:
            return None
        given = checked_arguments(self.arguments)
        pinned = _pinned(self.tokenizer.get_chat_template(), str(given.pop(DATE_ARGUMENT, DATE)))
        defaults = "".join(f"{{%- set {name} = {name} | default({_jinja(given[name])}) %}}" for name in given)
        # trim_blocks, which every engine of chat templates sets, takes the line break behind a block away.
        return f"{defaults}\n{pinned}" if defaults else pinned

    def _refusal(self, messages: Sequence[Message], error: Exception) -> DataError | ModelError:
        """The one message about a template that raised."""
        said = (" ".join(str(error).split())[:300] or type(error).__name__).rstrip(".") + "."
        try:
            self._write([Message("user", "a")], True)
        except FOREIGN:
            return ModelError(
                f"This model's chat template cannot be used: {said}", fix="Repair it, or use another model."
            )
        roles = [turn.role for turn in messages]
        fix = "Repair the conversation, leave it out, or use a model whose template takes it."
        if "system" in roles and self._takes([turn for turn in messages if turn.role != "system"]):
            fix = "The template has no system turns: leave them out, or put their text into the first user turn."
        elif any(one == other for one, other in pairwise(roles)):
            fix = "Join neighbouring turns of one role, so that user and assistant alternate."
        shown = ", ".join(roles[:8]) + (", …" if len(roles) > 8 else "") or "none"
        return DataError(f"the model's chat template refuses a conversation with the turns {shown}: {said}", fix=fix)

    def _takes(self, messages: Sequence[Message]) -> bool:
        try:
            self._write(messages, True)
        except FOREIGN:
            return False
        return True

    def frame(self) -> TurnFrame | None:
        """What the template writes around the turns of a probe; None without a template that can write it."""
        if not self.tokenizer.chat_template:
            return None
        return _frame(self.tokenizer, str(self.tokenizer.chat_template), json.dumps(self.arguments, sort_keys=True))


@dataclass(frozen=True, slots=True)
class TurnFrame:
    """What a template writes around the turns of a conversation user, assistant, user.

    Attributes:
        opening: In front of the first user turn's content: BOS, a system turn of the template's own, a header.
        question: Behind the content of a user turn, with the header of the finished assistant turn that follows.
        generation: Behind the content of a user turn, with the generation prompt.
        end: Behind the content of the last assistant turn.
        between: From the content of an assistant turn to that of the next user turn.
        system: Whether the content of a system turn is written; None if the template refuses such turns.
    """

    opening: str
    question: str
    generation: str
    end: str
    between: str
    system: bool | None

    @property
    def differing(self) -> tuple[str, str] | None:
        """The ends of generation prompt and finished header behind what they share; None if they are equal."""
        if self.generation == self.question:
            return None
        shared = common_prefix(self.generation, self.question)
        return self.generation[shared:], self.question[shared:]


@lru_cache(maxsize=8)
def _frame(tokenizer: Any, template: str, arguments: str) -> TurnFrame | None:
    """The frame of a template; its text and arguments are parts of the cache's key."""
    writer = ChatTemplate(tokenizer, json.loads(arguments))
    user, answer, more = Message("user", FIRST), Message("assistant", SECOND), Message("user", THIRD)
    try:
        generation = writer._write([user], True).partition(FIRST)
        opening, _, rest = writer._write([user, answer], False).partition(FIRST)
        question, _, end = rest.partition(SECOND)
        between = writer._write([user, answer, more], True).partition(SECOND)[2].partition(THIRD)[0]
    except FOREIGN:
        return None
    try:
        system = SECOND in writer._write([Message("system", SECOND), user], True)
    except FOREIGN:
        return TurnFrame(opening, question, generation[2], end, between, None)
    return TurnFrame(opening, question, generation[2], end, between, system)


def template_fingerprint(tokenizer: Any, arguments: Mapping[str, Any] | None = None) -> str:
    """A hash of the text and the tokens that a template and its tokenizer give for fixed probe conversations.

    Whatever decides how conversations are rendered shows in it: the template, its arguments, the date that it prints,
    the version of the library that runs it, and the tokenizer. It belongs into every cache key and checkpoint whose
    content depends on rendered conversations.

    Args:
        tokenizer: A Hugging Face tokenizer. Without a chat template only its tokens count.
        arguments: Of the template.

    Raises:
        ConfigError: If an argument cannot be given to a template.
        ModelError: If the template writes the same conversation differently each time.
    """
    checked_arguments(arguments or {})
    writer = ChatTemplate(tokenizer, arguments or {})
    written = _probed(writer)
    if written != _probed(writer):
        raise ModelError(
            "This model's chat template writes the same conversation differently each time (it draws lots), so no "
            "tokens could be served as they were trained.",
            fix="Repair the template, or use another model.",
        )
    probes = ["Is it a probe?\n\n1. Yes, it is.", *written]
    tokens = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in probes]
    special = tokenizer("a")["input_ids"]
    return hashlib.sha256(json.dumps([probes, tokens, special]).encode()).hexdigest()


def _probed(writer: ChatTemplate) -> list[str]:
    """What a template writes for fixed conversations, or the error that it raises."""
    turns = [Message(role, f"a {role} says 1.") for role in ("system", "user", "assistant", "user")]
    written = []
    for messages in (turns[1:2], turns[1:3], turns[1:], turns) if writer.tokenizer.chat_template else ():
        try:
            written.append(writer._write(messages, messages[-1].role == "user"))
        except FOREIGN as error:
            written.append(f"{type(error).__name__}: {error}")
    return written


def _jinja(value: Any) -> str:
    """A value of JSON as an expression of Jinja, whose null is none."""
    written = json.dumps(value, ensure_ascii=False)
    return re.sub(r'("(?:[^"\\]|\\.)*")|\bnull\b', lambda found: found[1] or "none", written)


@lru_cache(maxsize=8)
def _pinned(template: str, day: str) -> str:
    """A template whose clock, ``strftime_now``, stands at noon of a day.

    The clock is a macro in front of the template, because no library version lets a caller set its own; templates
    without a clock stay as they are.
    """
    if CLOCK not in template:
        return template
    noon = datetime.datetime.fromisoformat(f"{day}T12:00:00")
    codes = [f"%-{letter}" for letter in "dmHIMSjy"] + [f"%{letter}" for letter in "aAbBcdefHIjmMpSuUVwWxXyYzZ"]
    values = {
        code: str(int(noon.strftime(code.replace("-", "")))) if "-" in code else noon.strftime(code) for code in codes
    }
    steps = [("%%", FIRST), *values.items(), (FIRST, "%")]
    filters = "".join(f" | replace({json.dumps(code)}, {json.dumps(value)})" for code, value in steps)
    # The line break behind the macro is the one that the library's trim_blocks takes away.
    return f"{{%- macro {CLOCK}(format) %}}{{{{ format{filters} }}}}{{%- endmacro %}}\n{template}"
