"""``POST /v1/responses``: the part of OpenAI's Responses API that is about text.

Nothing is kept of a response: ``store`` is answered by false, and a ``previous_response_id`` is refused. Tools, images,
reasoning and structured output are refused.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import BaseModel, Field

from fedvpa.data.schema import Message, Text
from fedvpa.serving.asking import Answered, Wanted, answered, pieces, submit
from fedvpa.serving.bodies import Asked, Body, ChatMessage, Metadata, Nothing, Tokens, conversation
from fedvpa.serving.chat import TextFormat
from fedvpa.serving.errors import responses
from fedvpa.serving.generation import Generation
from fedvpa.serving.prompts import chat_prompt
from fedvpa.serving.requests import Finish
from fedvpa.serving.state import caller_of, state_of, target_of
from fedvpa.serving.streams import EventStream, event

router = APIRouter()


class InputMessage(ChatMessage):
    """A turn of the conversation; may be the output of an earlier response."""

    type: Literal["message"] | None = None
    id: Annotated[str, Field(max_length=512)] | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: None = None


class TextConfig(Body):
    """How text is answered."""

    format: TextFormat | None = None


class ResponseBody(Asked):
    """A request of ``/v1/responses``."""

    input: str | Annotated[list[InputMessage], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    text: TextConfig | None = None
    tools: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    include: Nothing | None = None
    previous_response_id: None = None
    reasoning: None = None

    def messages(self) -> Text:
        """The conversation, instructions in front."""
        if isinstance(self.input, str):
            turns: Sequence[Message] = (Message("user", self.input),)
        else:
            turns = conversation(list(self.input))  # type: ignore[assignment]
        front = () if self.instructions is None else (Message("system", self.instructions),)
        return (*front, *turns)


class OutputText(BaseModel):
    """What is said."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] = []


class OutputMessage(BaseModel):
    """A message of the assistant."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class InputDetails(BaseModel):
    """Nothing is read from a cache."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputDetails(BaseModel):
    """There is no reasoning."""

    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    """Numbers of tokens."""

    input_tokens: int
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class Incomplete(BaseModel):
    """Why a response is not whole."""

    reason: Literal["max_output_tokens"]


class ResponseObject(BaseModel):
    """What ``/v1/responses`` answers."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete"]
    background: Literal[False] = False
    error: None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: Metadata
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool = False
    previous_response_id: None = None
    store: Literal[False] = False
    temperature: float
    text: TextConfig = TextConfig(format=TextFormat(type="text"))
    tool_choice: Literal["none"] = "none"
    tools: list[Any] = []
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None


@router.post("/v1/responses", response_model=ResponseObject, responses=responses(404, 429), tags=["generation"])
async def create_response(body: ResponseBody, request: Request) -> Response | ResponseObject:
    """Answer an input; with ``stream`` as server-sent events."""
    state = state_of(request)
    target = await target_of(state, body, caller_of(request))
    prompt = await run_in_threadpool(chat_prompt, target.served.policy, body.messages(), "input")
    limit = "max_output_tokens"
    wanted = Wanted(body.temperature, body.top_p, body.max_output_tokens, limit)
    generations = submit(target, [prompt], wanted, "input")
    state.metrics.prompt_tokens.inc(len(prompt))
    own = target.served.policy.sampling
    begun = ResponseObject(
        id=f"resp_{uuid.uuid4().hex}",
        created_at=int(time.time()),
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        model=target.name,
        output=[],
        temperature=own.temperature if body.temperature is None else body.temperature,
        top_p=own.top_p if body.top_p is None else body.top_p,
    )
    message = f"msg_{uuid.uuid4().hex}"
    if body.stream:
        return EventStream(_events(request, begun, message, generations, len(prompt)))
    (found,) = await answered(request, generations, state.metrics)
    return _finished(begun, message, found, len(prompt))


def _finished(begun: ResponseObject, message: str, found: Answered, prompt: int) -> ResponseObject:
    """The response with its answer."""
    whole = found.finish == "stop"
    status: Literal["completed", "incomplete"] = "completed" if whole else "incomplete"
    return begun.model_copy(
        update={
            "status": status,
            "incomplete_details": None if whole else Incomplete(reason="max_output_tokens"),
            "output": [OutputMessage(id=message, status=status, content=[OutputText(text=found.text)])],
            "usage": ResponseUsage(input_tokens=prompt, output_tokens=found.tokens, total_tokens=prompt + found.tokens),
        }
    )


async def _events(
    request: Request, begun: ResponseObject, message: str, generations: Sequence[Generation], prompt: int
) -> AsyncGenerator[str]:
    """The events of a stream, in OpenAI's order."""
    number = -1

    def say(kind: str, **fields: Any) -> str:
        nonlocal number
        number += 1
        return event({"type": kind, "sequence_number": number, **fields}, kind)

    def part(text: str) -> dict[str, Any]:
        return OutputText(text=text).model_dump()

    here = {"item_id": message, "output_index": 0, "content_index": 0}
    item = OutputMessage(id=message, status="in_progress", content=[])
    yield say("response.created", response=begun.model_dump())
    yield say("response.in_progress", response=begun.model_dump())
    yield say("response.output_item.added", output_index=0, item=item.model_dump())
    yield say("response.content_part.added", **here, part=part(""))
    texts, tokens = list[str](), 0
    finish: Finish = "stop"
    async with aclosing(pieces(generations, state_of(request).metrics)) as found:
        async for _, piece in found:
            tokens += len(piece.ids)
            finish = piece.finish or finish
            if piece.text:
                texts.append(piece.text)
                yield say("response.output_text.delta", **here, delta=piece.text, logprobs=[])
    answer = Answered("".join(texts), tokens, (), finish)
    done = _finished(begun, message, answer, prompt)
    yield say("response.output_text.done", **here, text=answer.text, logprobs=[])
    yield say("response.content_part.done", **here, part=part(answer.text))
    yield say("response.output_item.done", output_index=0, item=done.output[0].model_dump())
    yield say(f"response.{done.status}", response=done.model_dump())
