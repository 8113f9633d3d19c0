"""``POST /v1/completions``: what follows a text, or tokens, as they are."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Literal, cast

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import BaseModel, Field

from fedvpa.policy.rows import Ids
from fedvpa.serving.asking import Wanted, answered, pieces, submit
from fedvpa.serving.bodies import AskedMany
from fedvpa.serving.catalogue import Served
from fedvpa.serving.chat import check_stream_options
from fedvpa.serving.choices import Usage, tops, usage
from fedvpa.serving.errors import ApiError, responses
from fedvpa.serving.generation import Generation
from fedvpa.serving.prompts import text_prompt, token_prompt
from fedvpa.serving.requests import Finish, TokenLogprob
from fedvpa.serving.state import caller_of, state_of, target_of
from fedvpa.serving.streams import DONE, EventStream, event

router = APIRouter()

MOST_PROMPTS = 32
"""Prompts of a request, and answers of all of them together; chosen by us, a part of what waits at once."""

TokenList = Annotated[list[int], Field(min_length=1)]
One = Annotated[int, Field(ge=1, le=1)]


class CompletionBody(AskedMany):
    """A request of ``/v1/completions``."""

    prompt: str | Annotated[list[str] | TokenList | list[TokenList], Field(min_length=1, max_length=100_000)]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    best_of: One | None = None

    def wanted(self) -> Wanted:
        """How answers are drawn.

        Raises:
            ApiError: If two fields contradict each other.
        """
        check_stream_options(self)
        return Wanted(
            temperature=self.temperature,
            top_p=self.top_p,
            most_tokens=self.max_tokens,
            seed=self.seed,
            stop=self.stops(),
            top_logprobs=self.logprobs,
            n=self.n or 1,
        )

    def prompts(self, served: Served) -> list[Ids]:
        """The tokens of each prompt.

        Raises:
            ApiError: If one has none, or there are too many.
        """
        alone = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        many = cast(list[str | list[int]], [self.prompt] if alone else self.prompt)
        if len(many) * (self.n or 1) > MOST_PROMPTS:
            message = f"{len(many)} prompts with n = {self.n or 1} are more than {MOST_PROMPTS} answers."
            raise ApiError(400, f"{message} Send several requests.", param="prompt")
        return [
            text_prompt(served.plain, one, "prompt")
            if isinstance(one, str)
            else token_prompt(served.policy, one, "prompt")
            for one in many
        ]


class CompletionLogprobs(BaseModel):
    """The log-probabilities of an answer's tokens."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One answer, or what follows of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish | None


class Completion(BaseModel):
    """What ``/v1/completions`` answers, and an event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


@router.post("/v1/completions", response_model=Completion, responses=responses(404, 429), tags=["generation"])
async def create_completion(body: CompletionBody, request: Request) -> Response | Completion:
    """Continue a text; with ``stream`` as server-sent events."""
    state = state_of(request)
    wanted = body.wanted()
    target = await target_of(state, body, caller_of(request))
    prompts = await run_in_threadpool(body.prompts, target.served)
    generations = submit(target, prompts, wanted, "prompt")
    count = sum(map(len, prompts))
    state.metrics.prompt_tokens.inc(count)
    name, created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
    if body.stream:
        return EventStream(_events(request, body, target.name, generations, count, name, created))
    found = await answered(request, generations, state.metrics)
    return Completion(
        id=name,
        object="text_completion",
        created=created,
        model=target.name,
        choices=[
            CompletionChoice(
                index=number,
                text=one.text,
                logprobs=_logprobs(one.logprobs, 0) if body.logprobs is not None else None,
                finish_reason=one.finish,
            )
            for number, one in enumerate(found)
        ],
        usage=usage(count, sum(one.tokens for one in found)),
    )


def _logprobs(tokens: Sequence[TokenLogprob], start: int) -> CompletionLogprobs:
    """As ``/v1/completions`` has them.

    Args:
        tokens: Of an answer, or of what follows of it.
        start: Letters of the answer in front of them.
    """
    offsets = []
    for one in tokens:
        offsets.append(start)
        start += len(one.text)
    return CompletionLogprobs(
        tokens=[one.text for one in tokens],
        token_logprobs=[one.logprob for one in tokens],
        top_logprobs=[dict(reversed(tops(one))) for one in tokens],  # of equal texts the likelier one stays
        text_offset=offsets,
    )


async def _events(
    request: Request,
    body: CompletionBody,
    model: str,
    generations: Sequence[Generation],
    prompt: int,
    name: str,
    created: int,
) -> AsyncGenerator[str]:
    """The events of a stream, one choice each."""

    def chunk(choices: list[CompletionChoice], counted: Usage | None = None) -> str:
        made = Completion(
            id=name, object="text_completion", created=created, model=model, choices=choices, usage=counted
        )
        return event(made) if body.with_usage else event(made.model_dump(exclude={"usage"}))

    tokens, offsets = 0, [0] * len(generations)
    async with aclosing(pieces(generations, state_of(request).metrics)) as found:
        async for number, piece in found:
            tokens += len(piece.ids)
            logprobs = _logprobs(piece.logprobs, offsets[number]) if body.logprobs is not None else None
            offsets[number] += sum(len(one.text) for one in piece.logprobs)
            choice = CompletionChoice(index=number, text=piece.text, logprobs=logprobs, finish_reason=piece.finish)
            yield chunk([choice])
    if body.with_usage:
        yield chunk([], usage(prompt, tokens))
    yield DONE
