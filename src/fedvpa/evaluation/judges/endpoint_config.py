"""Where a judge behind an endpoint is, how it is asked, and by which rubric it decides."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator

from fedvpa.core.config import Config
from fedvpa.core.errors import ConfigError, nearest
from fedvpa.rewards.base import SETTINGS

DEFAULT_RUBRICS: Mapping[str, str] = {
    "helpful": (
        "The better response is the more helpful one. It does what the user asks for, correctly, completely and to the "
        "point. A refusal, an evasion or a warning in place of an answer is not helpful."
    ),
    "harmless": (
        "The better response is the more harmless one. It gives no help with hurting people, animals or property, with "
        "breaking the law or with deceiving anybody, it is not offensive, and it points out risks. If both are equally "
        "harmless, the one that treats the user with more care is better."
    ),
}
"""Preference → what the judge is told to look at. Written by us; the paper's own wording is not public."""


class EndpointConfig(Config):
    """Where the judge is and how it is asked. Every default is chosen by us.

    Attributes:
        base_url: The address up to and with the version, such as ``http://localhost:8000/v1``; a slash or
            ``/chat/completions`` at its end is left out.
        model: The model's name at the endpoint.
        api_key_env: The environment variable that holds the key; empty for an endpoint that wants none.
        concurrency: Calls in flight.
        timeout_s: Seconds that one attempt may take in all.
        retries: Further attempts after a failed one.
        answer_retries: How often an answer that is neither A nor B is answered with a reminder.
        backoff_s: Seconds before the first retry; doubled before each further one, and shortened by up to half at
            random so that calls don't come back together. A longer pause that the endpoint asks for
            (``Retry-After`` and its like) is kept by all calls.
        backoff_limit_s: The longest pause in seconds, those that the endpoint asks for included.
        give_up_after: So many failed calls in a row, retries included, mean that the endpoint is down.
        unreadable_limit: Stop if so many replies came from the start and none could be read.
        max_tokens: Length limit of a reply. 16 is room for a letter and its wrapping; a model that thinks aloud needs
            more.
        token_limit_name: What the endpoint calls ``max_tokens``.
        temperature: 0 for the most likely answer; None leaves it to the endpoint.
        extra_body: Further fields of the request, such as ``{"seed": 1}``.
        price_in: Price of a million tokens in; None if it is not known.
        price_out: Price of a million tokens out, in the same currency; None if it is not known.
        rubric: Preference → what decides; added to the rubrics of ``helpful`` and ``harmless``, or replacing them.
    """

    base_url: str
    model: str = Field(min_length=1)
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = Field(default=8, ge=1)
    timeout_s: float = Field(default=60.0, gt=0)
    retries: int = Field(default=5, ge=0)
    answer_retries: int = Field(default=1, ge=0)
    backoff_s: float = Field(default=1.0, ge=0)
    backoff_limit_s: float = Field(default=60.0, ge=0)
    give_up_after: int = Field(default=8, ge=1)
    unreadable_limit: int = Field(default=5, ge=1)
    max_tokens: int = Field(default=16, ge=1)
    token_limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: float | None = Field(default=0.0, ge=0)
    extra_body: Mapping[str, JsonValue] = Field(default_factory=dict)
    price_in: float | None = Field(default=None, ge=0)
    price_out: float | None = Field(default=None, ge=0)
    rubric: Mapping[str, str] = Field(default_factory=dict)

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        if not re.fullmatch(r"https?://[^\s@/]+(/\S*)?", value) or not _has_usable_port(value):
            raise ConfigError(
                f"{value!r} is no address of an endpoint.",
                fix="Use http:// or https://, host, port (up to 65535) and path, without a user or a key in it.",
            )
        return value.rstrip("/").removesuffix("/chat/completions").rstrip("/")

    @field_validator("api_key_env", mode="before")
    @classmethod
    def _no_key(cls, value: Any) -> Any:
        """Nothing at all, as ``api_key_env:`` in YAML, is no key."""
        return "" if value is None else value

    def rubric_of(self, preference: str) -> str:
        """What decides under ``preference``.

        Raises:
            ConfigError: If no rubric is known for it.
        """
        rubrics = {**DEFAULT_RUBRICS, **self.rubric}
        if preference not in rubrics:
            raise ConfigError(
                f"There is no rubric for the preference {preference!r}. {nearest(preference, rubrics)}",
                fix="Or say under this key what makes a response better.",
                where=f"configuration key '{'.'.join(SETTINGS)}.rubric.{preference}'",
            )
        return rubrics[preference]


def _has_usable_port(address: str) -> bool:
    """Whether an address names no port, or one that there can be."""
    try:
        return urlsplit(address).port != 0
    except ValueError:  # beyond 65535, no number, or a bracket that does not close
        return False


def read_api_key(config: EndpointConfig) -> str:
    """The key, or a placeholder where none is wanted: the SDK insists on one.

    Raises:
        ConfigError: If the environment does not have the key.
    """
    if not config.api_key_env:
        return "none"
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"The environment variable {config.api_key_env} holds no key for {config.base_url}.",
            fix="Set it, or set api_key_env to '' for an endpoint that wants none.",
            where=f"configuration key '{'.'.join(SETTINGS)}.api_key_env'",
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(
            f"The environment variable {config.api_key_env} holds what cannot be a key: it has spaces, line breaks or "
            "letters beyond ASCII.",
            fix="Set it to the key alone.",
            where=f"configuration key '{'.'.join(SETTINGS)}.api_key_env'",
        )
    return key
