"""The lines of a text file, plain or gzip, whatever Unicode encoding it has, with the number of a line that breaks."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from fedvpa.core.errors import DataError

Line = tuple[int, str]
"""A line number, from 1, and the line with its end."""

_GZIP = b"\x1f\x8b"
_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_ZEROS: dict[
    tuple[bool, ...], str
] = {  # which of the first four bytes are zero, where the first letters are ASCII (RFC 4627, section 3)
    (True, True, True, False): "utf-32-be",
    (False, True, True, True): "utf-32-le",
    (True, False, True, False): "utf-16-be",
    (False, True, False, True): "utf-16-le",
}


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a text file: UTF-8, or UTF-16 or UTF-32 with or without a byte order mark.

    Whether the file is compressed is read from its content, not from its name. Lines end with a line feed only.

    Args:
        path: The file.

    Yields:
        The number and the text of each line.

    Raises:
        DataError: If the text is not of its encoding or the gzip stream is broken, with the line.
    """
    number = 0
    try:
        with _opened(path) as stream:
            for number, line in _decoded(stream):
                yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"the gzip stream breaks here ({error}).", fix="Fetch the file again.", where=f"{path}:{number + 1}"
        ) from error
    except UnicodeDecodeError as error:
        name = error.encoding.upper()
        raise DataError(f"is not {name} text.", fix="Save the file as UTF-8.", where=f"{path}:{number + 1}") from error


def _opened(path: Path) -> gzip.GzipFile | io.BufferedReader:
    with path.open("rb") as file:
        compressed = file.read(len(_GZIP)) == _GZIP
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _decoded(stream: gzip.GzipFile | io.BufferedReader) -> Iterator[Line]:
    encoding = encoding_of(stream.peek(4)[:4])
    if encoding.startswith("utf-8"):
        for number, line in enumerate(stream, start=1):
            yield number, line.decode(encoding if number == 1 else "utf-8")
        return
    # Half surrogate pairs pass here; they are replaced and counted where texts are read.
    with io.TextIOWrapper(cast(BinaryIO, stream), encoding, "surrogatepass", newline="\n") as text:
        yield from enumerate(text, start=1)


def encoding_of(head: bytes) -> str:
    """The encoding that the first four bytes of a text file say, by a byte order mark or by the zeros among them."""
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    return marked or _ZEROS.get(tuple(byte == 0 for byte in head), "utf-8")
