"""What a terminal that cannot show every character gets instead of an error."""

from __future__ import annotations

import codecs
import io
import sys

_HANDLER = "fedvpa.plain"
_PLAIN = {
    "─": "-", "━": "-", "–": "-", "—": "-", "−": "-", "│": "|", "┃": "|", "═": "=", "║": "|",
    "‘": "'", "’": "'", "“": '"', "”": '"', "…": "...", "↓": "v", "↑": "^", "→": "->", "←": "<-", "►": ">",
    "×": "x", "·": ".", "•": "*", "≥": ">=", "≤": "<=", "≈": "~", "±": "+/-", "²": "2",
}  # fmt: skip


def widen() -> None:
    """Let standard output and error take any text, whatever their encoding.

    A character that the encoding lacks (``PYTHONIOENCODING=ascii``, an old console) becomes its nearest plain form,
    such as ``-`` for a rule of a table, or ``?``: results of hours must not end in an encoding error. Half an emoji (a
    lone surrogate) becomes ``?`` in UTF-8 too. Streams that Python did not open itself stay as they are.
    """
    codecs.register_error(_HANDLER, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in missing), error.end
