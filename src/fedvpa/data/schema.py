"""The unit of everything: one labelled preference pair, in TRL's column names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from fedvpa.data.report import DataReport, Effect


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


Unit = Literal["prompt", "pair", "split"]
"""What is held out as a whole; see :mod:`fedvpa.data.splits`."""

Text = str | tuple[Message, ...]
"""A plain string, or the messages of a conversation."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One labelled preference pair.

    Attributes:
        prompt: What both responses answer.
        chosen: The response that the user preferred.
        rejected: The other one.
        user_id: Who labelled it; None if the data do not say.
        group: The preference group of the user. Read by evaluation and by partitioning, never by training.
        split: A split that the data prescribe (``train``, ``test``); None to let the partition draw one.
        weight: A positive importance weight.
        pair_id: A name that is unique within its table.
        conversation: The conversation that the prompt is a turn of, if its turns give several pairs: these are held out
            together, since a later prompt repeats the earlier ones and their chosen answers.
        place: Where it was read, as ``file:row``; for messages only, so pairs that differ in it alone are equal.
        tie: Whether the user preferred neither. Only who asks for ties is given such pairs; others leave them out.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    user_id: str | None = None
    group: str | None = None
    split: str | None = None
    weight: float = 1.0
    pair_id: str = ""
    conversation: str | None = None
    place: str = field(default="", compare=False)
    tie: bool = False


@dataclass(frozen=True, slots=True)
class PairTable:
    """Pairs in a fixed order, with the report of how they were loaded.

    Row numbers of a table index the features and the partition as well.
    """

    pairs: tuple[Pair, ...]
    report: DataReport = field(default_factory=DataReport)

    def __len__(self) -> int:
        return len(self.pairs)

    def groups(self) -> list[str]:
        """The distinct groups, sorted."""
        return sorted({pair.group for pair in self.pairs if pair.group is not None})

    def select(self, rows: Sequence[int]) -> PairTable:
        """The table of the given rows, in the given order."""
        return PairTable(tuple(self.pairs[row] for row in rows), self.report)

    def noting(
        self,
        rows: Sequence[int],
        reason: str,
        *,
        effect: Effect = "left out",
        unit: str = "pair",
        count: int | None = None,
        asked: bool = False,
    ) -> PairTable:
        """The same table, whose report says what happens to some of its rows; see :mod:`fedvpa.data.report`.

        Args:
            rows: Their numbers; of none, nothing is noted.
            reason: Why, in a few words.
            effect: What happens to them.
            unit: What is counted.
            count: How many; by default as many as ``rows``.
            asked: The configuration asks for it, so it is no error under ``data.strict``.

        Raises:
            DataError: Under ``data.strict``, with the place of the first row.
        """
        if not len(rows):
            return self
        first = self.pairs[min(rows)]
        report = self.report.add(
            reason,
            first.place or first.pair_id,
            effect=effect,
            unit=unit,
            count=len(rows) if count is None else count,
            asked=asked,
        )
        return replace(self, report=report)
