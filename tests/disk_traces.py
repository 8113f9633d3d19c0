"""Whether files hold a text: as it is, escaped, in another encoding, packed, or as a language model's tokens."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from fedvpa.world import backbone_path

ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be")
TOKEN_TYPES = ("<i2", "<i4", "<i8")


def traces(text: str) -> set[bytes]:
    """The bytes that a file would have somewhere in it, in each of the ways in which it could hold a text."""
    plain = {form.encode(encoding) for form in (text, json.dumps(text)[1:-1]) for encoding in ENCODINGS}
    return plain | {text.encode().hex().encode()} | set(_base64(text.encode())) | set(_tokens(text))


def _base64(content: bytes) -> Iterator[bytes]:
    """Inside of a longer text that is encoded, a text begins at one of three places of a group."""
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + content)
        yield whole[4 if before else 0 : -4]


def _tokens(text: str) -> Iterator[bytes]:
    for kind in TOKEN_TYPES:
        yield np.asarray(tokens_of(text), dtype=kind).tobytes()


def tokens_of(text: str) -> list[int]:
    """As the bundled language model reads it."""
    return list(_tokenizer().encode(text, add_special_tokens=False).ids)


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(backbone_path() / "tokenizer.json"))


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """All files below a folder, and what those that are packed hold."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        content = path.read_bytes()
        yield path, content
        # A database may end in an archive, which is no archive then: Flower keeps the app so, beside it unpacked.
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield from [(path, archive.read(name)) for name in archive.namelist()]
        for start in (0, 4):  # of a stream, or after a length
            for unpack in (gzip.decompress, zlib.decompress):
                try:
                    yield path, unpack(content[start:])
                except (OSError, EOFError, zlib.error):
                    continue


def texts_held(folder: Path, texts: Collection[str]) -> dict[str, set[Path]]:
    """Text → the files that hold it, for those that some file holds."""
    files = list(contents(folder))
    found = {text: {path for path, content in files if any(one in content for one in traces(text))} for text in texts}
    return {text: paths for text, paths in found.items() if paths}
