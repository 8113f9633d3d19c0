"""How clients train a policy: who runs them, how adapters travel, and the server's rules."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from fedvpa.core.errors import ConfigError
from fedvpa.core.rules import RulesConfig


class ClientsConfig(RulesConfig):
    """Methods whose clients train a policy: what ``engine`` and ``server`` are for selectors.

    With the keys of :class:`~fedvpa.core.rules.RulesConfig`.

    Attributes:
        engine: ``loop`` (one client after the other, in this process) or ``flower`` (Flower's simulation).
        codec: How adapters travel, as ``engine.codec``.
        dropout: As ``engine.dropout``.
        secure_aggregation: As ``engine.secure_aggregation``; for methods whose updates are sums, such as ``feddpo``
            with ``policy.feddpo.averaging=avg`` or ``ffa``.
        secure_share: As ``engine.secure_share``.
    """

    engine: Literal["loop", "flower"] = "loop"
    codec: Literal["fp32", "fp16", "int8"] = "fp32"
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    secure_aggregation: bool = False
    secure_share: float = Field(default=2 / 3, ge=0.5, lt=1)

    @field_validator("engine", mode="before")
    @classmethod
    def _one_at_a_time(cls, value: Any) -> Any:
        if value == "vectorised":
            raise ConfigError(
                "'vectorised' stacks the features of a whole cohort, and these clients train a language model, which "
                "one client fills by itself.",
                fix="Choose loop or flower.",
            )
        return value
