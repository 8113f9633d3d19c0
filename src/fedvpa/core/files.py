"""Atomic files: a reader sees the old content or the new one, never half of either."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from fedvpa.core.errors import ConfigError
from fedvpa.core.unicode import FIX, unusable


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` only if the block succeeds.

    A full disk or a kill inside the block leaves the previous file whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON to ``path`` atomically. NaN is an error: JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def user_path(path: str | PathLike[str]) -> Path:
    """A path as a user gives it, ``~`` resolved.

    Raises:
        ConfigError: If it holds something that no file can say again; see :mod:`fedvpa.core.unicode`.
    """
    problem = unusable(os.fspath(path))
    if problem:
        raise ConfigError(f"The path {os.fspath(path)!r} holds {problem}.", fix=FIX)
    return Path(path).expanduser()
