"""How many calls a judge may make: counted over everything that judges into one folder, and stopped at a limit."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock

from fedvpa.core.errors import JudgeError

LIMIT_KEY = "policy.judging.max_calls"


class CallBudget:
    """Counts calls before they are made, and refuses the one that is too many.

    Every request counts, also one that repeats another or tries the judge. With a file, the count goes on where other
    processes and earlier programs left it: the file grows by one byte for each call, before the call is made.

    Args:
        limit: The most calls; None for any number.
        path: The file, made with the first call; None counts in memory only.
    """

    def __init__(self, limit: int | None = None, path: Path | None = None) -> None:
        self.limit, self._path = limit, path
        self._made = 0

    @property
    def made(self) -> int:
        """The calls made so far."""
        if self._path is None:
            return self._made
        return self._path.stat().st_size if self._path.exists() else 0

    def take(self) -> None:
        """Count one call, which is made after this.

        Raises:
            JudgeError: If the limit is reached; nothing is counted then.
        """
        if self._path is None:
            self._check()
            self._made += 1
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._path}.lock"):
            self._check()
            with open(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), "ab") as file:
                file.write(b".")

    def _check(self) -> None:
        if self.limit is not None and self.made >= self.limit:
            raise JudgeError(
                f"The judge was called {self.made} times, and {LIMIT_KEY} allows {self.limit} calls.",
                fix=f"Answers that came are kept and are not asked for again. To go on, raise {LIMIT_KEY}.",
                where="" if self._path is None else str(self._path),
            )
