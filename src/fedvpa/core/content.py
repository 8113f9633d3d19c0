"""What files hold, as hashes: read once for each content, and never trusted by name, size or time alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from fedvpa.core.cache import cache_base
from fedvpa.core.files import write_json

SETTLED_NS = 2_000_000_000
"""A file that changed so short a time ago may change again within the same tick of its file system's clock: its hash is
not kept (git calls such entries racy). Two seconds are the coarsest tick in use, that of FAT."""

KEPT_BYTES = 1 << 20
"""The hash of a file from this size on is kept on disk too; smaller ones are read in a few milliseconds (ours)."""

_Stamp = tuple[int, int, int, int, int]

_known: dict[str, tuple[_Stamp, str]] = {}
"""Path → its state on disk and its hash, for as long as this process lives."""


def content_hash(path: Path) -> str:
    """SHA-256 of a file's content.

    A second call for the same file reads nothing, and for a large file that holds in later processes too: its hash is
    kept in the folder ``hashes`` of the cache. That is safe where size and modification time would not be: the hash
    is kept beside the inode and its change time, which the system sets at every write and no program can set back.
    Windows has no such time, so there every call reads the file.

    Raises:
        OSError: If the file cannot be read.
    """
    before = _stamp(path)
    known = _known.get(str(path))
    if known is not None and known[0] == before:
        return known[1]
    lasting = os.name == "posix"
    large = lasting and before[2] >= KEPT_BYTES
    found = _recall(path, before) if large else None
    if found is None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        settled = time.time_ns() - max(before[3:]) > SETTLED_NS
        if not (lasting and settled and _stamp(path) == before):
            return found
        if large:
            _keep(path, before, found)
    _known[str(path)] = before, found
    return found


def _recall(path: Path, stamp: _Stamp) -> str | None:
    """The hash that another process kept of a file in this state; None without one that can be read."""
    try:
        kept = json.loads(_record(path).read_text(encoding="utf-8"))
        return str(kept["sha256"]) if kept["path"] == str(path.absolute()) and kept["stamp"] == list(stamp) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or it is damaged: then the file itself is read


def _keep(path: Path, stamp: _Stamp, found: str) -> None:
    """Keep a hash for other processes. Where the cache cannot be written they read the file again: no error."""
    with contextlib.suppress(OSError):
        write_json(_record(path), {"path": str(path.absolute()), "stamp": list(stamp), "sha256": found})


def _record(path: Path) -> Path:
    """Where the hash of a file is kept: a file for each, so that processes need no lock."""
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return cache_base() / "hashes" / f"{name}.json"


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of ``paths``, in sorted order."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.name}:{content_hash(path)}\n".encode())
    return total.hexdigest()


def _stamp(path: Path) -> _Stamp:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
