"""Chat completions of an endpoint through the openai SDK (``fedvpa[judges]``), with retries.

A call fails when the endpoint refuses it, takes too long or sends something that is no completion. Failures that can
pass are retried with exponentially growing pauses; a pause that the endpoint asks for is kept by all calls. The SDK's
own retries are off, so that all are counted here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fedvpa.core.errors import ConfigError
from fedvpa.core.seeds import numpy_generator
from fedvpa.evaluation.judges.budget import CallBudget
from fedvpa.evaluation.judges.completion import AttemptError, Completion, is_passing, printable, read_completion
from fedvpa.evaluation.judges.cost import Usage
from fedvpa.evaluation.judges.endpoint_config import EndpointConfig
from fedvpa.evaluation.judges.pauses import SharedPause, wished_pause

Send = Callable[..., Awaitable[Any]]
"""The SDK's call that returns a response as it came."""


class ChatClient:
    """Asks an endpoint for completions; made by :func:`connect`."""

    def __init__(
        self, send: Send, config: EndpointConfig, api_key: str, usage: Usage, budget: CallBudget, *, patient: bool
    ) -> None:
        self._send, self._config, self._api_key, self._patient = send, config, api_key, patient
        self._usage, self._budget = usage, budget
        self._pause = SharedPause(config.model, config.backoff_limit_s)

    async def complete(self, key: str, messages: Sequence[Mapping[str, str]]) -> Completion:
        """One completion, with retries.

        Args:
            key: Names the call; the random part of its pauses depends on it and on nothing else.
            messages: The conversation so far, as ``role`` and ``content``.

        Raises:
            AttemptError: What was wrong with the last attempt.
            JudgeError: If no more calls are allowed.
        """
        for attempt in range(self._config.retries + 1):
            await self._pause.wait()
            self._budget.take()
            self._usage.requests += 1
            self._usage.retries += attempt > 0
            try:
                reply = await self._attempt(messages)
            except AttemptError as error:
                self._pause.extend(error.pause)
                again = error.passing and (self._patient or error.busy)
                if not again or attempt == self._config.retries:
                    raise
                await asyncio.sleep(self._backoff(key, attempt))
            else:
                self._usage.tokens_in += reply.tokens_in
                self._usage.tokens_out += reply.tokens_out
                return reply
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _backoff(self, key: str, attempt: int) -> float:
        """Seconds before the retry that follows ``attempt``, where the endpoint asks for no longer pause."""
        config = self._config
        share = numpy_generator(0, "judge-backoff", key, attempt).uniform(0.5, 1.0)
        return min(config.backoff_s * 2.0**attempt * share, config.backoff_limit_s)

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
            hint = "Is the server overloaded? Lower concurrency or raise timeout_s."
            raise AttemptError(f"no reply within {config.timeout_s:g} s", hint=hint) from None
        except openai.APIStatusError as error:
            raise self._refused(error) from None
        except openai.APIConnectionError as error:
            hint = (
                "Does a server run at this address, and can it be reached from here? The environment variables "
                "HTTP_PROXY, HTTPS_PROXY and NO_PROXY are obeyed."
            )
            raise AttemptError(f"no connection: {self._short(error.__cause__ or error)}", hint=hint) from None
        except openai.OpenAIError as error:
            raise AttemptError(f"{type(error).__name__}: {self._short(error)}", passing=False) from None
        # Read here and not by the SDK, which builds its objects without checking them.
        return read_completion(raw.text)

    def _refused(self, error: Any) -> AttemptError:
        """What an ``openai.APIStatusError`` says."""
        status, headers = error.status_code, error.response.headers
        # An account without credit is refused with the status of a rate limit, and no pause helps it.
        broke = status == 402 or getattr(error, "code", None) == "insufficient_quota"
        return AttemptError(
            f"status {status}: {self._short(error)}",
            passing=is_passing(status) and not broke,
            busy=is_passing(status) and not broke,
            pause=0.0 if broke else wished_pause(headers, limited=status == 429),
            hint="The account has no credit left." if broke else _hint(status, self._config),
        )

    def _short(self, error: BaseException) -> str:
        """The start of an error's text, without the key that some endpoints echo."""
        text = str(error).strip() or type(error).__name__
        return printable(text.replace(self._api_key, "***") if self._api_key else text)[1:-1]


def _hint(status: int, config: EndpointConfig) -> str:
    """What to do about a refusal of this status; empty where nothing is known."""
    if status in (401, 403):
        known = (
            f"the environment variable {config.api_key_env}" if config.api_key_env else "api_key_env, which is empty"
        )
        return f"Check the key: {known}."
    if status in (404, 405):
        return f"Check the model's name ({config.model!r}), and that base_url ends in the version, such as /v1."
    if status in (400, 413, 422):
        return "Check the model's name, max_tokens, token_limit_name, temperature and extra_body."
    return "Lower concurrency." if status == 429 else ""


@asynccontextmanager
async def connect(
    config: EndpointConfig, api_key: str, usage: Usage, budget: CallBudget, *, patient: bool = True
) -> AsyncIterator[ChatClient]:
    """A client whose connections are closed at the end.

    Args:
        config: Where the endpoint is and how it is asked.
        api_key: Its key.
        usage: Where requests, retries and tokens are counted.
        budget: How many calls may be made.
        patient: Whether every failure that can pass is retried; else only those of an endpoint that says it is busy.

    Raises:
        ConfigError: If the client cannot be made: the address, a proxy or a certificate file of the environment is
            wrong.
    """
    from openai import AsyncOpenAI

    try:
        sdk = AsyncOpenAI(api_key=api_key, base_url=config.base_url, max_retries=0, timeout=None)
    except Exception as error:  # httpx raises errors of many kinds for what the environment holds
        raise ConfigError(
            f"No connection can be prepared: {printable(str(error) or type(error).__name__)}.",
            fix="Check base_url, and the environment variables HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, "
            "SSL_CERT_FILE and SSL_CERT_DIR.",
            where=config.base_url,
        ) from error
    async with sdk:
        send = sdk.chat.completions.with_raw_response.create
        yield ChatClient(send, config, api_key, usage, budget, patient=patient)
