"""What files hold, as hashes: read once for each content, and never trusted by name, size or time alone."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

SETTLED_NS = 2_000_000_000
"""A file that changed so short a time ago may change again within the same tick of its file system's clock: its hash is
not kept (git calls such entries racy). Two seconds are the coarsest tick in use, that of FAT."""

_Stamp = tuple[int, int, int, int, int]

_known: dict[str, tuple[_Stamp, str]] = {}
"""Path → its state on disk and its hash, for as long as this process lives."""


def content_hash(path: Path) -> str:
    """SHA-256 of a file's content.

    A second call for the same file reads nothing. That is safe where size and modification time would not be: the hash
    is kept beside the inode and its change time, which the system sets at every write and no program can set back.
    Windows has no such time, so there every call reads the file.

    Raises:
        OSError: If the file cannot be read.
    """
    before = _stamp(path)
    known = _known.get(str(path))
    if known is not None and known[0] == before:
        return known[1]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    settled = time.time_ns() - max(before[3:]) > SETTLED_NS
    if os.name == "posix" and settled and _stamp(path) == before:
        _known[str(path)] = before, found
    return found


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of ``paths``, in sorted order."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.name}:{content_hash(path)}\n".encode())
    return total.hexdigest()


def _stamp(path: Path) -> _Stamp:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
