"""Questions on a terminal: one key for each answer; without a terminal, one line of the input for each."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer

from fedvpa.core.errors import DataError
from fedvpa.core.progress import say
from fedvpa.data.winner import side_of

if TYPE_CHECKING:
    from fedvpa.serving.pool import Question
    from fedvpa.serving.profiles import Profile

KEYS = {"a": "A", "b": "B", "1": "A", "2": "B", "e": "tie", "=": "tie", "s": "skip", "q": "quit"}
LEGEND = "a: A is better   b: B is better   e: equal   s: skip   q: quit"
MOST = 0.6931
"""log 2, what an answer says at most, in nats."""


def asker() -> Callable[[Question, Profile], str]:
    """What puts questions here: by keys where the input is a terminal, by lines elsewhere."""
    return by_key if sys.stdin.isatty() else by_line(iter(sys.stdin))


def by_key(question: Question, known: Profile) -> str:
    """Show a question and wait for one of the keys."""
    say(shown(question, known))
    while True:
        try:
            answer = KEYS.get(typer.getchar().lower())
        except EOFError:
            return "quit"
        except KeyboardInterrupt:  # the terminal gives the key and no signal while it waits for one
            signal.raise_signal(signal.SIGINT)
            raise
        if answer is not None:
            say(f"-> {answer}\n")
            return answer
        say(LEGEND)


def by_line(lines: Iterator[str]) -> Callable[[Question, Profile], str]:
    """Answers from lines: A, B, tie, skip or quit, or what a column of winners may say; their end is ``quit``."""
    numbered = enumerate(lines, start=1)

    def ask(question: Question, known: Profile) -> str:
        say(shown(question, known))
        number, line = next(numbered, (0, "quit"))
        word = line.strip().lower()
        if word in ("skip", "quit"):
            return word
        side = side_of(word)
        if side is None:
            answers = "A, B, tie, skip and quit"
            raise DataError(f"{line.strip()!r} is no answer.", fix=f"Answers are {answers}.", where=f"input:{number}")
        return {"first": "A", "second": "B", "tie": "tie"}[side]

    return ask


def shown(question: Question, known: Profile) -> str:
    """The question, and how much is known."""
    shares = ", ".join(f"{place}: {share:.2f}" for place, share in enumerate(known.responsibilities))
    sure = f"{known.pairs} answers; prototypes {shares}; this answer is expected to tell {question.information:.2f}"
    return f"{question}\n\n[{sure} of at most {MOST:.2f} nats; {question.left} pairs left]\n{LEGEND}"
