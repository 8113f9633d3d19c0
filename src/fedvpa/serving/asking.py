"""From a request to an engine's answers: limits, several answers at once, and clients that go away."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

from fastapi import Request
from starlette.types import Receive

from fedvpa.core.seeds import entropy
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids
from fedvpa.serving.catalogue import Target
from fedvpa.serving.errors import GONE, ApiError
from fedvpa.serving.generation import Generation
from fedvpa.serving.metrics import Metrics
from fedvpa.serving.requests import Finish, GenerationRequest, Piece, QueueFull, TokenLogprob


@dataclass(frozen=True)
class Wanted:
    """How answers are drawn.

    Attributes:
        temperature: None for the policy's own.
        top_p: None for the policy's own.
        most_tokens: The longest answer; None for that of the policy's training, or what its positions leave.
        limit: The field of the request that says ``most_tokens``, for messages.
        seed: None for one that nobody knows.
        stop: Texts that end an answer.
        top_logprobs: Log-probabilities of how many tokens beside the one drawn; None for none at all.
        n: Answers to each prompt.
    """

    temperature: float | None = None
    top_p: float | None = None
    most_tokens: int | None = None
    limit: str = "max_tokens"
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    n: int = 1


@dataclass(frozen=True)
class Answered:
    """An answer that is whole.

    Attributes:
        text: What it says.
        tokens: How many tokens it has.
        logprobs: Of its tokens.
        finish: Why it ended.
    """

    text: str
    tokens: int
    logprobs: tuple[TokenLogprob, ...]
    finish: Finish


def submit(target: Target, prompts: Sequence[Ids], wanted: Wanted, param: str) -> list[Generation]:
    """Begin ``wanted.n`` answers to each prompt, in order.

    Args:
        target: Who answers.
        prompts: Tokens.
        wanted: How.
        param: The field of the request that holds the prompts, for messages.

    Raises:
        ApiError: 400 if prompt and answer do not fit into the model, 429 if too many requests wait.
    """
    own = target.served.policy.sampling
    seed = secrets.randbits(63) if wanted.seed is None else wanted.seed % 2**63
    begun: list[Generation] = []
    requests = []
    for prompt in prompts:
        sampling = replace(
            own,
            temperature=own.temperature if wanted.temperature is None else wanted.temperature,
            top_p=own.top_p if wanted.top_p is None else wanted.top_p,
            max_new_tokens=_room(target.served.policy, prompt, wanted, param),
        )
        for number in range(wanted.n):
            requests.append(
                GenerationRequest(
                    prompt=prompt,
                    z=target.z,
                    sampling=sampling,
                    seed=seed if number == 0 else entropy(seed, "choice", number) % 2**63,
                    base=target.base,
                    stop=wanted.stop,
                    top_logprobs=wanted.top_logprobs,
                )
            )
    try:
        for request in requests:
            begun.append(target.served.engine.submit(request))
    except BaseException as error:
        cancel(begun)
        if isinstance(error, QueueFull):
            raise too_busy(error.retry_after) from error
        raise
    return begun


def too_busy(retry_after: float) -> ApiError:
    """The answer where too many requests wait."""
    seconds = max(1, math.ceil(retry_after))
    message = f"Too many requests wait. Try again in {seconds} s."
    return ApiError(429, message, code="queue_full", headers={"Retry-After": str(seconds)})


def _room(policy: Policy, prompt: Ids, wanted: Wanted, param: str) -> int:
    """How many tokens an answer may have."""
    whole = policy.tokenizer.max_tokens
    if whole is None:
        return wanted.most_tokens or policy.sampling.max_new_tokens
    room = whole - len(prompt)
    if room < 1:
        raise ApiError(
            400,
            f"The prompt has {len(prompt)} tokens, and this model has room for {whole}, answer included. Shorten it.",
            param=param,
            code="context_length_exceeded",
        )
    if wanted.most_tokens is not None and wanted.most_tokens > room:
        raise ApiError(
            400,
            f"{wanted.limit} = {wanted.most_tokens} and a prompt of {len(prompt)} tokens are more than the {whole} "
            f"that this model has room for. Give at most {room}.",
            param=wanted.limit,
            code="context_length_exceeded",
        )
    return min(wanted.most_tokens or policy.sampling.max_new_tokens, room)


def cancel(generations: Sequence[Generation]) -> None:
    """Stop answers that nobody waits for."""
    for generation in generations:
        generation.cancel()


async def answered(request: Request, generations: Sequence[Generation], metrics: Metrics) -> list[Answered]:
    """Wait for whole answers.

    Args:
        request: Whose client may go away, which ends the answers.
        generations: What was begun.
        metrics: Count tokens.

    Raises:
        ApiError: With the status ``GONE`` if the client went away.
    """
    work = asyncio.ensure_future(_all(generations, metrics))
    watch = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ApiError(GONE, "The client went away.")
        return work.result()
    finally:
        cancel(generations)
        for task in (work, watch):
            task.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)


async def pieces(generations: Sequence[Generation], metrics: Metrics) -> AsyncGenerator[tuple[int, Piece]]:
    """(number of the answer, what follows of it) as it comes, of all answers.

    Args:
        generations: What was begun.
        metrics: Count tokens, and the time to the first one.

    Raises:
        ApiError: 503 if the engine was closed before their end.
    """
    began, first = time.monotonic(), True
    queue: asyncio.Queue[tuple[int, Piece] | BaseException | None] = asyncio.Queue(maxsize=64)

    async def read(number: int, generation: Generation) -> None:
        try:
            async for piece in generation:
                await queue.put((number, piece))
            await queue.put(None)
        except Exception as error:
            await queue.put(error)

    tasks = [asyncio.ensure_future(read(number, one)) for number, one in enumerate(generations)]
    going, finished = len(tasks), 0
    try:
        while going:
            got = await queue.get()
            if isinstance(got, BaseException):
                raise got
            if got is None:
                going -= 1
                continue
            finished += got[1].finish is not None
            if got[1].ids and first:
                first = False
                metrics.first_token.observe(time.monotonic() - began)
            metrics.generated.inc(len(got[1].ids))
            yield got
        if finished < len(tasks):
            raise cut_short()
    except (asyncio.CancelledError, GeneratorExit):
        metrics.cancelled.inc()
        raise
    finally:
        cancel(generations)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _all(generations: Sequence[Generation], metrics: Metrics) -> list[Answered]:
    said: list[list[Piece]] = [[] for _ in generations]
    async for number, piece in pieces(generations, metrics):
        said[number].append(piece)
    return [_whole_answer(own) for own in said]


def _whole_answer(said: Sequence[Piece]) -> Answered:
    """The pieces of an answer as one."""
    return Answered(
        "".join(piece.text for piece in said),
        sum(len(piece.ids) for piece in said),
        tuple(one for piece in said for one in piece.logprobs),
        said[-1].finish or "stop",
    )


def cut_short() -> ApiError:
    """The answer to requests that run when the server stops for good."""
    return ApiError(503, "The server stopped before the answer was whole.", code="stopped")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
