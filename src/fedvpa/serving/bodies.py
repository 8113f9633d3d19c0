"""What requests have in common: the fields that are read, and what each may be.

A field that would change the answer and that this server cannot follow is refused, unless it holds the value that
changes nothing (``frequency_penalty: 0``, ``tools: []``), as many clients send it. A field that changes no answer
(``store``, ``service_tier``) is accepted. ``/openapi.json`` is made of these classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fedvpa.data.schema import Message, Text

MOST_PAIRS = 1_000
"""Pairs in a request; chosen by us: each is read by the language model while others wait."""

MOST_CHOICES = 16
"""``n``; chosen by us, a part of what runs at once."""

Temperature = Annotated[float, Field(ge=0.01, le=2)] | Annotated[float, Field(ge=0, le=0)]
"""0 for the most probable token. Between 0 and 0.01 logits overflow; OpenAI's API takes at most 2."""

TopP = Annotated[float, Field(gt=0, le=1)]
Zero = Annotated[float, Field(ge=0, le=0)]
Nothing = Annotated[list[Any], Field(max_length=0)]
StopText = Annotated[str, Field(min_length=1, max_length=200)]
Tokens = Annotated[int, Field(ge=1, le=10_000_000)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Metadata = Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)]
Number = Annotated[float, Field(ge=-1e6, le=1e6)]


class Body(BaseModel):
    """A JSON object whose fields are all known, and whose values are converted from no other type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(Body):
    """A part of a message."""

    type: Literal["text", "input_text", "output_text"]
    text: str
    annotations: Nothing | None = None
    logprobs: Nothing | None = None


def _text_only(content: Any) -> Any:
    """Say what is wrong with an image before the types do, in many words."""
    for place, part in enumerate(content if isinstance(content, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind not in ("text", "input_text", "output_text"):
            raise ValueError(f"this model reads text only, and part {place} is of the type {kind[:40]!r}")
    return content


Content = Annotated[str | Annotated[list[TextPart], Field(min_length=1)], BeforeValidator(_text_only)]
"""Text, or parts of a text that are joined."""


class ChatMessage(Body):
    """A turn of a conversation. What else the SDK's own messages hold may stand there if it is empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    refusal: None = None
    annotations: Nothing | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Nothing | None = None

    def message(self) -> Message:
        """As the policy reads it; ``developer`` is OpenAI's newer word for the system."""
        return Message("system" if self.role == "developer" else self.role, joined(self.content))


def joined(content: str | list[TextPart]) -> str:
    """The text of a message."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def conversation(messages: list[ChatMessage]) -> Text:
    """The messages of a request as a prompt."""
    return tuple(message.message() for message in messages)


PromptField = str | Annotated[list[ChatMessage], Field(min_length=1)]
ResponseText = Annotated[str, Field(min_length=1)]
Weight = Annotated[float, Field(ge=0.001, le=1000)]


class ChosenPair(Body):
    """A pair whose preferred response has a name of its own."""

    prompt: PromptField
    chosen: ResponseText
    rejected: ResponseText
    winner: Literal["A", "tie"] = Field(default="A", description="tie: the user likes both alike.")
    weight: Weight = 1.0


class JudgedPair(Body):
    """A pair as it was shown, and who won."""

    prompt: PromptField
    response_a: ResponseText
    response_b: ResponseText
    winner: Literal["A", "B", "tie"]
    weight: Weight = 1.0


def _of_its_kind(pair: Any) -> Any:
    """Pairs by what they have, so that an error is about one kind of them."""
    if not isinstance(pair, dict):
        return pair
    kind = JudgedPair if {"response_a", "response_b"} & pair.keys() else ChosenPair
    return kind.model_validate(pair)


AnyPair = Annotated[ChosenPair | JudgedPair, BeforeValidator(_of_its_kind)]


def rows_of(pairs: Sequence[ChosenPair | JudgedPair]) -> list[dict[str, Any]]:
    """Pairs as profiles read them: of one kind."""
    found = []
    for pair in pairs:
        row: dict[str, Any] = {"prompt": prompt_of(pair.prompt), "winner": pair.winner, "weight": pair.weight}
        if isinstance(pair, JudgedPair):
            row |= {"response_a": pair.response_a, "response_b": pair.response_b}
        else:
            row |= {"response_a": pair.chosen, "response_b": pair.rejected}
        found.append(row)
    return found


def prompt_of(prompt: str | Sequence[ChatMessage]) -> str | list[dict[str, str]]:
    """A prompt of a request as profiles read it."""
    return prompt if isinstance(prompt, str) else [asdict(turn.message()) for turn in prompt]


class StreamOptions(Body):
    """How an answer is streamed."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Asked(Body):
    """What every request for generation may say."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stream: bool | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    metadata: Metadata | None = None
    z: Annotated[list[Number], Field(min_length=1, max_length=65_536)] | None = Field(
        default=None, description="The preference itself; only where the server was started with --allow-z."
    )
    pairs: Annotated[list[AnyPair], Field(min_length=1, max_length=MOST_PAIRS)] | None = Field(
        default=None, description="Pairs that stand for a preference and are not kept; only with --allow-z, too."
    )
    store: bool | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None


class AskedMany(Asked):
    """What ``/v1/chat/completions`` and ``/v1/completions`` have in common beside that."""

    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    seed: Seed | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None

    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)
