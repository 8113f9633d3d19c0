"""The unit of everything: one labelled preference pair, in TRL's column names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from fedvpa.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


Text = str | tuple[Message, ...]
"""A plain string, or the messages of a conversation."""


Prompt = Text | Sequence[Mapping[str, str]]
"""What users write: a :data:`Text`, or messages as dictionaries with ``role`` and ``content``."""


def as_texts(prompts: Prompt | Sequence[Prompt]) -> list[Text]:
    """One prompt or several, as texts. Raises as :func:`as_text`."""
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], Message | Mapping)):
        return [as_text(cast(Prompt, prompts))]
    return [as_text(prompt) for prompt in cast(Sequence[Prompt], prompts)]


def as_text(prompt: Prompt) -> Text:
    """A prompt as a :data:`Text`.

    Raises:
        DataError: If a message lacks its role or its content.
    """
    if isinstance(prompt, str):
        return prompt
    turns = []
    for turn in prompt:
        role, content = (
            (turn.role, turn.content) if isinstance(turn, Message) else (turn.get("role"), turn.get("content"))
        )
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"A message is {turn!r}.", fix="Give 'role' and 'content', both as text.")
        turns.append(Message(role, content))
    return tuple(turns)


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
    """

    prompt: Text
    chosen: Text
    rejected: Text
    user_id: str | None = None
    group: str | None = None
    split: str | None = None
    weight: float = 1.0
    pair_id: str = ""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a source read, and what it left out and why.

    Attributes:
        read: Rows seen.
        skipped: Reason → number of rows left out for it.
        examples: Reason → the first place (``file:row``) where it happened.
    """

    read: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PairTable:
    """Pairs in a fixed order, with the report of how they were loaded.

    Row numbers of a table index the features and the partition as well.
    """

    pairs: tuple[Pair, ...]
    report: LoadReport = field(default_factory=LoadReport)

    def __len__(self) -> int:
        return len(self.pairs)

    def groups(self) -> list[str]:
        """The distinct groups, sorted."""
        return sorted({pair.group for pair in self.pairs if pair.group is not None})

    def select(self, rows: Sequence[int]) -> PairTable:
        """The table of the given rows, in the given order."""
        return PairTable(tuple(self.pairs[row] for row in rows), self.report)
