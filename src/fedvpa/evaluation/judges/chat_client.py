"""Chat completions of an endpoint through the openai SDK (``fedvpa[judges]``), with retries.

A call fails when the endpoint refuses it, takes too long or sends something that is no completion. Failures that can
pass are retried with exponentially growing pauses. The SDK's own retries are off, so that all are counted here.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fedvpa.core.seeds import numpy_generator
from fedvpa.evaluation.judges.cost import Usage
from fedvpa.evaluation.judges.endpoint_config import EndpointConfig

Send = Callable[..., Awaitable[Any]]
"""The SDK's call that returns a response as it came."""

RETRIED_STATUS = frozenset({408, 409, 425, 429})
"""Statuses below 500 that can pass; every status from 500 on is retried too."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the endpoint wrote.

    Attributes:
        text: The reply.
        cut: Whether it ended at the token limit.
        tokens_in: Tokens in, as the endpoint counted them; 0 where it does not say.
        tokens_out: Tokens out, likewise.
    """

    text: str
    cut: bool
    tokens_in: int
    tokens_out: int


class AttemptError(Exception):
    """One attempt failed.

    Attributes:
        passing: Whether another attempt may succeed.
        pause: Seconds that the endpoint wants to be left alone before it.
    """

    def __init__(self, problem: str, *, passing: bool = True, pause: float = 0.0) -> None:
        self.passing, self.pause = passing, pause
        super().__init__(problem)


class ChatClient:
    """Asks an endpoint for completions; made by :func:`connect`."""

    def __init__(self, send: Send, config: EndpointConfig, api_key: str, usage: Usage) -> None:
        self._send, self._config, self._api_key, self._usage = send, config, api_key, usage

    async def complete(self, key: str, messages: Sequence[Mapping[str, str]]) -> Completion:
        """One completion, with retries.

        Args:
            key: Names the call; the random part of its pauses depends on it and on nothing else.
            messages: The conversation so far, as ``role`` and ``content``.

        Raises:
            AttemptError: What was wrong with the last attempt.
        """
        for attempt in range(self._config.retries + 1):
            self._usage.requests += 1
            self._usage.retries += attempt > 0
            try:
                reply = await self._attempt(messages)
            except AttemptError as error:
                if not error.passing or attempt == self._config.retries:
                    raise
                await asyncio.sleep(self._pause(key, attempt, error.pause))
            else:
                self._usage.tokens_in += reply.tokens_in
                self._usage.tokens_out += reply.tokens_out
                return reply
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _pause(self, key: str, attempt: int, wished: float) -> float:
        """Seconds before the retry that follows ``attempt``."""
        config = self._config
        share = numpy_generator(0, "judge-backoff", key, attempt).uniform(0.5, 1.0)
        return min(max(config.backoff_s * 2.0**attempt * share, wished), config.backoff_limit_s)

    async def _attempt(self, messages: Sequence[Mapping[str, str]]) -> Completion:
        """One request.

        Raises:
            AttemptError: For whatever goes wrong with the endpoint.
        """
        import openai

        config = self._config
        options: dict[str, Any] = {
            "model": config.model,
            "messages": list(messages),
            "extra_body": dict(config.extra_body),
            config.token_limit_name: config.max_tokens,
        }
        if config.temperature is not None:
            options["temperature"] = config.temperature
        try:
            async with asyncio.timeout(config.timeout_s):
                raw = await self._send(**options)
        except TimeoutError:
            raise AttemptError(f"no reply within {config.timeout_s:g} s") from None
        except openai.APIStatusError as error:
            status = error.status_code
            raise AttemptError(
                f"status {status}: {self._short(error)}",
                passing=status >= 500 or status in RETRIED_STATUS,
                pause=_retry_after(error.response.headers.get("retry-after")),
            ) from None
        except openai.APIConnectionError as error:
            raise AttemptError(f"no connection: {self._short(error.__cause__ or error)}") from None
        # Read here and not by the SDK, which builds its objects without checking them.
        return read_completion(raw.text)

    def _short(self, error: BaseException) -> str:
        """The start of an error's text, without the key that some endpoints echo."""
        text = " ".join(str(error).split()) or type(error).__name__
        return (text.replace(self._api_key, "***") if self._api_key else text)[:200]


@asynccontextmanager
async def connect(config: EndpointConfig, api_key: str, usage: Usage) -> AsyncIterator[ChatClient]:
    """A client whose connections are closed at the end.

    Args:
        config: Where the endpoint is and how it is asked.
        api_key: Its key.
        usage: Where requests, retries and tokens are counted.
    """
    from openai import AsyncOpenAI

    async with AsyncOpenAI(api_key=api_key, base_url=config.base_url, max_retries=0, timeout=None) as sdk:
        yield ChatClient(sdk.chat.completions.with_raw_response.create, config, api_key, usage)


def read_completion(text: str) -> Completion:
    """The completion in the body of a response.

    Raises:
        AttemptError: If it is no completion, because it was cut or is something else.
    """
    try:
        body = json.loads(text)
        choice, usage = body["choices"][0], body.get("usage") or {}
        content = choice["message"]["content"] or ""
        counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except ValueError:
        raise AttemptError("a reply that is no JSON") from None
    except (KeyError, IndexError, TypeError, AttributeError):
        raise AttemptError("a reply that is no completion") from None
    if not isinstance(content, str):
        raise AttemptError("a reply that is no completion")
    return Completion(content, choice.get("finish_reason") == "length", *counts)


def _retry_after(value: str | None) -> float:
    """Seconds that a ``Retry-After`` header asks for; its rarer form, a date, counts as none."""
    try:
        seconds = float(value or 0)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0
