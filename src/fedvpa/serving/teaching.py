"""Questions to a user, one after the other, each the one that says most; every answer is kept before the next."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedvpa.core.files import write_text
from fedvpa.serving.pool import Question, QuestionKey
from fedvpa.serving.profiles import Profile, Profiles

SKIP, QUIT = "skip", "quit"

Ask = Callable[[Question, Profile], str]
"""A question, and what is known of the user so far → ``A``, ``B``, ``tie``, ``skip`` or ``quit``."""


def teach(
    profiles: Profiles, name: str, ask: Ask, *, most: int | None = None, after: Callable[[], None] = lambda: None
) -> int:
    """Ask a user until they have enough, all pairs of the pool were asked, or so many were answered.

    Args:
        profiles: Where the profile is.
        name: The profile, which is there.
        ask: Puts a question and gives the answer.
        most: How many answers are wanted; None for no limit.
        after: Called after each answer that was kept.

    Returns:
        How many questions were answered.
    """
    skipped: set[QuestionKey] = set()
    answered = 0
    known = profiles.get(name)
    while most is None or answered < most:
        question = profiles.next(name, without=skipped)
        answer = QUIT if question is None else ask(question, known)
        if question is None or answer == QUIT:
            break
        if answer == SKIP:
            skipped.add(question.key)
            continue
        known = profiles.add(name, [question.answered(answer)])
        answered += 1
        after()
    return answered


def write_judged(file: Path, exported: dict[str, Any]) -> None:
    """Write the pairs of a profile as JSON lines that every verb reads.

    A tie is two lines, the pair in both orders with half its weight each, which is what it counts as.

    Args:
        file: Where to; replaced as a whole.
        exported: From :meth:`fedvpa.serving.profiles.Profiles.export`.
    """
    lines = []
    for row in exported["judged"]:
        tie, weight = row["winner"] == "tie", row["weight"]
        line = {name: row[name] for name in ("prompt", "chosen", "rejected")}
        lines.append({**line, "weight": weight / 2 if tie else weight})
        if tie:
            lines.append({**lines[-1], "chosen": row["rejected"], "rejected": row["chosen"]})
    write_text(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
