"""How often the server unmasked the sum of each release, written down before it does.

Noise that nodes add is new whenever they are asked. A round that the server repeats, since it stopped between the sum
and the checkpoint, therefore gives it a second noised sum of the same users: one more release, which ε has to count. A
round that stopped before is none: masked integers are uniform, and their masks are made anew.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

UNMASKED_FILE = "unmasked.txt"
"""Beside the checkpoint: a line with the number of the release whenever one is about to be unmasked."""


@dataclass(frozen=True)
class Unmasked:
    """The file.

    Attributes:
        path: Where it is; None where nothing is counted: the same noise again is no further release.
    """

    path: Path | None = None

    def note(self, release: int) -> None:
        """Write that a release is about to be unmasked, to the disk before this returns."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            # After a line that was cut off: it counts as it stands, and must not take this one with it.
            file.write(b"%d\n" % release if not file.tell() or self._ends() else b"\n%d\n" % release)
            file.flush()
            os.fsync(file.fileno())

    def times(self, releases: int) -> list[int]:
        """How often each of the first releases counts: as often as it was unmasked, once at least."""
        lines = [] if self.path is None or not self.path.is_file() else self.path.read_text().split()
        counted = Counter(map(int, lines))
        return [max(1, counted[release]) for release in range(releases)]

    def _ends(self) -> bool:
        assert self.path is not None
        return self.path.read_bytes().endswith(b"\n")
