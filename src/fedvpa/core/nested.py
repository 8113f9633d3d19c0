"""The nested mappings that a configuration is parsed from: read from a file, overridden by dotted key, merged."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from fedvpa.core.errors import ConfigError
from fedvpa.core.written import Given, Scalar, read_yaml


def values_of_file(path: str | PathLike[str]) -> dict[str, Any]:
    """What a YAML file says, values still as they are written; nothing of an empty one.

    Raises:
        ConfigError: For a file that cannot be read, is not YAML, or holds something else than keys and values.
    """
    try:
        loaded = read_yaml(Path(path).expanduser().read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError("cannot be read: it is not UTF-8 text.", fix="Check --config.", where=str(path)) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}.", fix="Check --config.", where=str(path)) from error
    except ValueError as error:
        raise ConfigError(f"is not YAML: {error}.", fix="Correct the file.", where=str(path)) from error
    if not _is_null(loaded) and not isinstance(loaded, dict):
        raise ConfigError("holds no mapping of keys to values.", fix="See configs/.", where=str(path))
    return loaded if isinstance(loaded, dict) else {}


def apply(values: dict[str, Any], override: str) -> None:
    """Change nested ``values`` in place as ``key.path=value`` says; the value stays as it is written.

    Raises:
        ConfigError: For an override without ``=``, or one that goes below a value.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"The override {override!r} is not key.path=value.", fix="Add '=' and a value.")
    *sections, last = key.split(".")
    for section in sections:
        if _is_null(values.get(section)):
            values[section] = {}
        values = values[section]
        if not isinstance(values, dict):
            raise ConfigError(f"The override {override!r} goes below {section!r}, which is no section.")
    values[last] = Given(text)


def merged(values: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with those of ``settings`` in their places, section by section."""
    found = dict(values)
    for key, value in settings.items():
        below = found.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = merged(below, value)
        found[key] = value
    return found


def plain(value: Any) -> Any:
    """``value`` of what YAML can write: dictionaries, and lists for tuples."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, Scalar) and value.value is None)
