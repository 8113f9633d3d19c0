"""What texts begin with in common, without a loop over their characters."""

from __future__ import annotations


def common_prefix(*texts: str) -> int:
    """How many leading characters all ``texts`` share; at least one text is needed.

    Bisection: each step compares slices as a whole, so no character is looked at more than twice.
    """
    first, *others = texts
    shared, most = 0, min(map(len, texts))
    while shared < most:
        middle = (shared + most + 1) // 2
        piece = first[shared:middle]
        if all(text.startswith(piece, shared) for text in others):
            shared = middle
        else:
            most = middle - 1
    return shared
