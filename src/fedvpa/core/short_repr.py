"""A short ``repr`` for data classes that hold tensors: shapes instead of numbers, counts instead of long lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

SHOWN = 4
"""Longest list and longest mapping that is shown entry by entry."""
LONGEST = 60
"""Longest text that is shown whole."""


def short_repr(value: Any) -> str:
    """The class and its fields, each in a few words; to be used as ``__repr__`` of a data class."""
    parts = [f"{field.name}={_short(getattr(value, field.name))}" for field in fields(value) if field.repr]
    return f"{type(value).__name__}({', '.join(parts)})"


def _short(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, str):
        return repr(value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…")
    if isinstance(value, Mapping):
        if len(value) <= SHOWN and all(isinstance(entry, bool | int | float | str | None) for entry in value.values()):
            return repr(dict(value))
        return f"{{{len(value)} entries}}"
    if isinstance(value, tuple | list | set | frozenset):
        return f"[{', '.join(map(_short, value))}]" if len(value) <= SHOWN else f"[{len(value)} items]"
    if is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}(…)"
    text = repr(value)
    return text if len(text) <= LONGEST and "\n" not in text else f"<{type(value).__name__}>"
