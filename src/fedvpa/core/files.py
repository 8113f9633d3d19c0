"""Atomic files: a reader sees the old content or the new one, never half of either."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from fedvpa.core.errors import ConfigError, DataError, RunError, StorageError
from fedvpa.core.unicode import FIX, unusable


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` only if the block succeeds.

    A full disk or a kill inside the block leaves the previous file whole.

    Raises:
        StorageError: If the system refuses; it names ``path`` and the room that is left.
    """
    with storing(path):
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


@contextlib.contextmanager
def storing(path: Path, fix: str = "") -> Iterator[None]:
    """While inside, a refusal of the system to write is one message about ``path``.

    Whatever writes files does so inside, also by another library: safetensors has an error of its own for a full disk.

    Args:
        path: What is written.
        fix: How to go on; replaces that of an inner ``storing``.

    Raises:
        StorageError: In place of the system's or the library's error.
    """
    try:
        yield
    except StorageError as error:
        if not fix:
            raise
        raise StorageError(error.path, error.reason, free=error.free, fix=fix) from error
    except OSError as error:
        raise StorageError(str(path), error.strerror or str(error), free=_free(path), fix=fix) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise StorageError(str(path), str(error), free=_free(path), fix=fix) from error


def _free(path: Path) -> int | None:
    """Bytes that are free on the disk of a path, or of the nearest folder above it that is there."""
    place = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), None)
    try:
        return None if place is None else shutil.disk_usage(place).free
    except OSError:
        return None


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON to ``path`` atomically. NaN is an error: JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


_DAMAGED = "Restore it, or give the command that wrote it again."


def read_own_text(path: Path) -> str:
    """The text of a file that this library wrote.

    Raises:
        RunError: If it is damaged: a copy was cut off, or something else was written over it.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunError("is damaged: it is no UTF-8 text.", fix=_DAMAGED, where=str(path)) from error


def read_own_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file that this library wrote. Raises as :func:`read_own_text`."""
    return _object(read_own_text(path), str(path))


def read_own_lines(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """The objects of such a file with one on each line, or the first of them. Raises as above, with the row."""
    lines = read_own_text(path).splitlines()[:most]
    return [_object(line, f"{path}:{row}") for row, line in enumerate(lines, start=1)]


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise RunError(f"is damaged: it is no JSON ({error}).", fix=_DAMAGED, where=where) from error
    if not isinstance(found, dict):
        raise RunError("is damaged: it holds no JSON object.", fix=_DAMAGED, where=where)
    return found


def user_path(path: str | PathLike[str]) -> Path:
    """A path as a user gives it, ``~`` resolved.

    Raises:
        ConfigError: If it holds something that no file can say again; see :mod:`fedvpa.core.unicode`.
    """
    problem = unusable(os.fspath(path))
    if problem:
        raise ConfigError(f"The path {os.fspath(path)!r} holds {problem}.", fix=FIX)
    return Path(path).expanduser()


def output_folder(path: str | PathLike[str], what: str) -> Path:
    """A folder that work will write to, checked before the work begins and not made yet.

    Args:
        path: As a user gives it.
        what: What will be written, such as "a run".

    Raises:
        ConfigError: See :func:`user_path`.
        RunError: If something else than a folder is there, or in the way.
        StorageError: If the system would refuse to write there.
    """
    folder = user_path(path)
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    except OSError as error:  # a name that is too long
        raise StorageError(str(folder), error.strerror or str(error), fix="Choose another place.") from error
    if not there.is_dir():
        which = "" if there == folder else f"{there} "
        raise RunError(f"{which}is a file, and {what} is a folder.", fix="Choose another place.", where=str(folder))
    if not os.access(there, os.W_OK | os.X_OK):
        raise StorageError(str(folder), f"{there} is not writable", fix="Choose another place.")
    return folder


def empty_folder(path: str | PathLike[str], what: str) -> Path:
    """A folder that :func:`new_folder` will make, checked before the work begins. Raises as :func:`output_folder`.

    Args:
        path: As a user gives it.
        what: What will be written, such as "a release".

    Raises:
        RunError: If it holds files, too.
    """
    folder = output_folder(path, what)
    if folder.exists() and any(folder.iterdir()):
        raise RunError("holds files already.", fix="Choose an empty folder.", where=str(folder))
    return folder


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``folder`` only if the block succeeds.

    Args:
        folder: From :func:`empty_folder`.

    Raises:
        StorageError: If the system refuses.
    """
    with storing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            made = Path(temporary) / folder.name
            made.mkdir()
            yield made
            made.replace(folder)


LONGEST_NAME = 200
"""Bytes; file systems allow 255, and names of files get a beginning and an ending."""


def check_folder_name(name: str, what: str) -> None:
    """Refuse a name from the data that cannot be the name of a folder, or would be one somewhere else.

    Args:
        name: The name.
        what: What it is, for the message.

    Raises:
        DataError: If it is empty, ``.`` or ``..``, too long, or holds a slash, a backslash or a control character.
    """
    odd = any(letter in "/\\" or not letter.isprintable() for letter in name)
    if odd or name in ("", ".", "..") or len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        raise DataError(
            f"{name!r} is {what}, and no folder can have this name.",
            fix="Rename it to letters, digits and such.",
        )
