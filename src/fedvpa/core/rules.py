"""How the updates of a cohort become one: the same keys for methods on features and on texts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from fedvpa.core.config import Config
from fedvpa.core.errors import ConfigError
from fedvpa.core.numbers import Between

Rule = Literal["mean", "median", "trimmed_mean", "krum"]

_LIMIT = Between(1e-6, 1e7, "no update would count, or every one would as it is")


class RulesConfig(Config):
    """The server's rules.

    Attributes:
        rule: How the updates of a cohort become one; see ``algorithms/server/robust.py``.
        malicious: ``trimmed_mean`` and ``krum``: the share of a cohort that may lie. Chosen by us.
        clip_norm: Longest change that one client may make to the weights. ``auto``: the clients' median, found in the
            first rounds and followed; see ``algorithms/server/limits.py`` for how it was chosen. None for no limit.
        max_weight: The most that one client may weigh, mostly in training pairs; what it claims beyond is cut.
            ``auto``: the clients' median, found in the first rounds. None for no limit.
    """

    rule: Rule = "mean"
    malicious: float = Field(default=0.3, ge=0, lt=0.5)
    clip_norm: float | Literal["auto"] | None = "auto"
    max_weight: float | Literal["auto"] | None = "auto"

    @field_validator("clip_norm", "max_weight", mode="before")
    @classmethod
    def _limits(cls, value: Any) -> Any:
        """A number within bounds, ``auto`` or None."""
        return value if value is None else limit(value, "Give a number, auto, or null for no limit.")


def limit(value: Any, fix: str) -> Any:
    """A limit on updates as a configuration gives it: a number within bounds, or ``auto``.

    Raises:
        ConfigError: If it is neither; the caller adds the key.
    """
    if value == "auto" or isinstance(value, bool):
        return value  # a truth value is refused as for every key that holds a number
    try:
        number = float(value)  # of a text too: YAML reads 5e-2 as one
    except (TypeError, ValueError):
        raise ConfigError(f"{value!r} is no limit.", fix=fix) from None
    return _LIMIT(number)
