"""``POST /v1/chat/completions``."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import BaseModel, Field

from fedvpa.serving.asking import Wanted, answered, pieces, submit
from fedvpa.serving.bodies import AskedMany, Body, ChatMessage, Nothing, Tokens, conversation
from fedvpa.serving.choices import ChatLogprobs, Usage, chat_logprobs, usage
from fedvpa.serving.errors import ApiError, responses
from fedvpa.serving.generation import Generation
from fedvpa.serving.prompts import chat_prompt
from fedvpa.serving.requests import Finish
from fedvpa.serving.state import caller_of, state_of, target_of
from fedvpa.serving.streams import DONE, EventStream, event

router = APIRouter()

MOST_TOP_LOGPROBS = 20
"""As in OpenAI's API."""


class TextFormat(Body):
    """The format of an answer: text."""

    type: Literal["text"]


class ChatBody(AskedMany):
    """A request of ``/v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    response_format: TextFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    tools: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None

    def wanted(self) -> Wanted:
        """How answers are drawn.

        Raises:
            ApiError: If two fields contradict each other.
        """
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            message = f"max_tokens = {self.max_tokens} and max_completion_tokens = {self.max_completion_tokens} differ."
            raise ApiError(400, f"{message} Leave one of them out.", param="max_tokens")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
        check_stream_options(self)
        return Wanted(
            temperature=self.temperature,
            top_p=self.top_p,
            most_tokens=self.max_completion_tokens or self.max_tokens,
            limit="max_tokens" if self.max_completion_tokens is None else "max_completion_tokens",
            seed=self.seed,
            stop=self.stops(),
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            n=self.n or 1,
        )


class ChatAnswer(BaseModel):
    """A message of the assistant."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatCompletion(BaseModel):
    """What ``/v1/chat/completions`` answers."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(BaseModel):
    """What follows of a message."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """What follows of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Finish | None


class ChatChunk(BaseModel):
    """An event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


def check_stream_options(body: AskedMany) -> None:
    """Refuse what is said about a stream where none is asked for.

    Raises:
        ApiError: If so.
    """
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true.", param="stream_options")


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=responses(404, 429), tags=["generation"])
async def create_chat_completion(body: ChatBody, request: Request) -> Response | ChatCompletion:
    """Answer a conversation; with ``stream`` as server-sent events."""
    state = state_of(request)
    wanted = body.wanted()
    target = await target_of(state, body, caller_of(request))
    prompt = await run_in_threadpool(chat_prompt, target.served.policy, conversation(body.messages))
    generations = submit(target, [prompt], wanted, "messages")
    state.metrics.prompt_tokens.inc(len(prompt))
    name, created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
    if body.stream:
        return EventStream(_events(request, body, target.name, generations, len(prompt), name, created))
    found = await answered(request, generations, state.metrics)
    return ChatCompletion(
        id=name,
        object="chat.completion",
        created=created,
        model=target.name,
        choices=[
            ChatChoice(
                index=number,
                message=ChatAnswer(role="assistant", content=one.text),
                logprobs=chat_logprobs(one.logprobs) if body.logprobs else None,
                finish_reason=one.finish,
            )
            for number, one in enumerate(found)
        ],
        usage=usage(len(prompt), sum(one.tokens for one in found)),
    )


async def _events(
    request: Request,
    body: ChatBody,
    model: str,
    generations: Sequence[Generation],
    prompt: int,
    name: str,
    created: int,
) -> AsyncGenerator[str]:
    """The events of a stream, one choice each."""

    def chunk(choices: list[ChunkChoice], counted: Usage | None = None) -> str:
        made = ChatChunk(
            id=name, object="chat.completion.chunk", created=created, model=model, choices=choices, usage=counted
        )
        return event(made) if body.with_usage else event(made.model_dump(exclude_unset=True, exclude={"usage"}))

    tokens = 0
    for number in range(len(generations)):
        first = Delta(role="assistant", content="")
        yield chunk([ChunkChoice(index=number, delta=first, logprobs=None, finish_reason=None)])
    async with aclosing(pieces(generations, state_of(request).metrics)) as found:
        async for number, piece in found:
            tokens += len(piece.ids)
            yield chunk(
                [
                    ChunkChoice(
                        index=number,
                        delta=Delta(content=piece.text) if piece.text or piece.finish is None else Delta(),
                        logprobs=chat_logprobs(piece.logprobs) if body.logprobs else None,
                        finish_reason=piece.finish,
                    )
                ]
            )
    if body.with_usage:
        yield chunk([], usage(prompt, tokens))
    yield DONE
