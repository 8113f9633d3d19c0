"""What a configuration says about chat templates; nothing here imports a model."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from fedvpa.core.errors import ConfigError

TemplateKind = Literal["plain", "chat", "rendered"]
"""How strings are read: ``plain``, as text, in which nothing is a control token; ``chat``, as a user's message and an
assistant's; ``rendered``, as text that a chat template wrote already, whose control tokens are control tokens."""

DATE = "2024-07-26"
"""The day that templates believe to have. It is the one that Llama 3's template has where it knows no date."""

DATE_ARGUMENT = "today"
"""The name of the template argument that sets another day, as YYYY-MM-DD."""

OURS = (
    "messages",
    "conversation",
    "tools",
    "documents",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "return_tensors",
    "return_dict",
)
"""What fedvpa itself gives to a template, or to the function that runs it."""


def checked_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a chat template, as JSON has them.

    Raises:
        ConfigError: If an argument is one of fedvpa's own, cannot be written as JSON, or is no date where one is due.
    """
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in OURS:
            raise ConfigError(f"The template argument {name!r} is given by fedvpa itself.", fix="Leave it out.")
        found[name] = value.isoformat() if isinstance(value, datetime.date) else value
    try:
        json.dumps(found)
    except TypeError as error:
        raise ConfigError(f"A template argument cannot be kept ({error}).", fix="Give texts and numbers.") from error
    day = found.get(DATE_ARGUMENT, DATE)
    try:
        datetime.date.fromisoformat(str(day))
    except ValueError as error:
        raise ConfigError(
            f"The template argument {DATE_ARGUMENT!r} is {day!r}, which is no day.", fix=f"Give it as {DATE}."
        ) from error
    return found


TemplateArguments = Annotated[dict[str, Any], AfterValidator(checked_arguments)]
"""The type of a configuration key that holds template arguments."""
