r"""Texts that UTF-8 cannot hold: the one rule of every place where text enters.

A Python string may hold half of a surrogate pair (U+D800 to U+DFFF): JSON can write one (``"\ud83d"``, half an emoji
that a tool cut), and so can an argument of the command line that is not UTF-8. No tokenizer takes such a string, and
no file can be written with it. The rule:

- in a text (prompt, response, message) each is replaced by U+FFFD, the replacement character, and counted, with the
  first place; under ``data.strict`` it is an error;
- in a name (user, group, pair) it is an error: two names could become one;
- in a configuration value or a path it is an error, as is a NUL, which no path can hold.

Other control characters are text: tokenizers and files take them.
"""

from __future__ import annotations

import re

REPLACED = "a half surrogate pair, which UTF-8 cannot hold, became U+FFFD"
"""The reason of a text that was changed, for messages and counts."""

_HALF = re.compile("[\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """Whether UTF-8 can hold ``text``."""
    return text.isascii() or _HALF.search(text) is None


def storable(text: str) -> str:
    """The text with every half surrogate pair replaced by U+FFFD. Two halves that belong together become one letter."""
    return text if is_storable(text) else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


FIX = "Give it without, or rename the file."
"""What to do about a configuration value, or a path, that is :func:`unusable`."""


def unusable(text: str) -> str:
    """What a configuration value or a path holds that none may; empty if nothing."""
    if not is_storable(text):
        return "half a surrogate pair (or a byte that is not UTF-8), which no file can hold"
    return "a NUL, which no path can hold" if "\0" in text else ""
