"""The base of every configuration: frozen, strict, and helpful about a misspelt key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from fedvpa.core.errors import ConfigError, InputError, nearest
from fedvpa.core.numbers import check_number
from fedvpa.core.unicode import FIX, unusable

UNSET = "–"
"""How tables and messages write a value that is None or empty."""


class Config(BaseModel):
    """A frozen section of the configuration. Unknown keys are errors that name the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _carries(cls, value: Any, info: ValidationInfo) -> Any:
        """Numbers are numbers, by the rule of :mod:`fedvpa.core.numbers`."""
        check_number(value, cls.model_fields[str(info.field_name)].annotation)
        return value

    @classmethod
    def parse(cls, values: Mapping[str, Any], *under: str) -> Self:
        """Validate ``values``.

        Args:
            values: Key → value.
            *under: The keys that lead to this section, for messages.

        Raises:
            ConfigError: For the first unknown key or unusable value, with its dotted path.
        """
        _check_texts(values, under)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            path = [str(part) for part in first["loc"]]
            where = f"configuration key {'.'.join([*under, *path])!r}"
            if first["type"] == "extra_forbidden":
                raise ConfigError("is not known.", fix=nearest(path[-1], _known(cls, path[:-1])), where=where) from None
            cause = first.get("ctx", {}).get("error")
            if isinstance(cause, InputError):
                place = cause.where or (where if path else "configuration")
                raise ConfigError(cause.problem, fix=cause.fix, where=place) from None
            raise ConfigError(f"{first['msg']} (given: {first['input']!r}).", fix=_share(first), where=where) from None


def _check_texts(value: Any, path: tuple[str, ...]) -> None:
    """Raise ConfigError for a text that no file or path can hold; see :mod:`fedvpa.core.unicode`."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check_texts(item, (*path, str(name)))
    elif isinstance(value, list | tuple):
        for item in value:
            _check_texts(item, path)
    elif isinstance(value, str | Path) and (problem := unusable(str(value))):
        raise ConfigError(f"{str(value)!r} holds {problem}.", fix=FIX, where=f"configuration key {'.'.join(path)!r}")


def _share(error: Mapping[str, Any]) -> str:
    """What to do about a percentage where a share is wanted; empty if the error is another."""
    given, limits = error["input"], error.get("ctx", {})
    most = limits.get("le", limits.get("lt"))
    if most is None or most > 1 or not isinstance(given, int | float) or not 1 < given <= 100:
        return ""
    return f"A share is a fraction: {given:g}% is {given / 100:g}."


def _known(section: type[BaseModel], path: list[str]) -> list[str]:
    """The field names of the section that ``path`` leads to."""
    for part in path:
        field = section.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        section = field.annotation
    return list(section.model_fields)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested sections as (dotted key, value in words), in their order."""
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        pairs.extend(flat(value, f"{key}.") if isinstance(value, Mapping) and value else [(key, _plain(value))])
    return pairs


def _plain(value: Any) -> str:
    if value is None or value == {} or value == [] or value == ():
        return UNSET
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
