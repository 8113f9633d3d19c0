"""Which of two responses won, as labelling tools write it, and the columns that look as if they said so.

The vocabulary is collected from what tools and public sets of judgements export: Chatbot Arena and MT-Bench
(``model_a``, ``tie (bothbad)``), AlpacaEval (``1``, ``2``, ``1.5``), Arena-Hard (``A>>B``, ``A=B``), Argilla, Label
Studio and Prodigy (``response_1``, ``left``). Chosen by us.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Side = Literal["first", "second", "tie"]
"""Who won."""

_THING = (
    "model|response|answer|output|completion|assistant|candidate|option|choice|summary|text|generation|reply|chatbot"
    "|bot|system|agent|argument|message|side|conversation|item"
)
_FIRST, _SECOND = "a|1|first|one|left", "b|2|second|two|right"
_MUCH = "much|slightly|significantly|clearly|far|a bit|a lot"
_WON = rf"(?: ?(?:wins?|won|(?:is )?(?:(?:{_MUCH}) )?(?:better|best|preferred)))?"
_SIDE = re.compile(
    rf"(?:the )?(?:(?P<thing>{_THING}) ?)?(?:(?P<first>{_FIRST})|(?P<second>{_SECOND}))(?: ?(?:{_THING}|one))?{_WON}"
)
_TIE = re.compile(
    r"ties?(?: ?\(?both ?(?:bad|good)\)?)?|tied|draw|equal|equally (?:good|bad)|(?:about |the )*same|both"
    r"|both (?:bad|good|equal)|bothbad|neither|no preference|nopreference|a ?= ?b|1\.5|similar|unsure|undecided"
)
_ORDER = re.compile(r"(?P<left>[ab]) ?(?P<sign>>+|<+) ?(?P<right>[ab])")

_PREFERS = frozenset(
    {"chosen", "preferred", "better", "best", "good", "winner", "winning", "accepted", "positive", "pos"}
    | {"rejected", "dispreferred", "worse", "worst", "bad", "loser", "losing", "negative", "neg", "other"}
)
"""Words in the name of a column of responses that say which one was preferred."""
_WINNER = frozenset({"winner", "winners", "winning", "won", "win", "verdict", "verdicts"})
"""Words in the name of a column that say that it holds who won, whatever its values."""
_MAY_WIN = frozenset(
    {"preferred", "preference", "preferences", "pref", "vote", "votes", "better", "chosen", "choice", "selected"}
    | {"selection", "picked", "best", "label", "labels", "annotation", "judgment", "judgement", "judgments", "judge"}
    | {"decision", "result", "outcome", "rating", "ranking", "rank", "target", "class", "annotated", "feedback"}
)
"""Words in the name of a column that may hold who won, if its values could say so."""
_NUMBER = re.compile(r"[+-]?[0-9](?:\.[0-9]+)?")
MOST_VALUES = 12
"""A column with more distinct values than this does not hold who won: seven ways to write A, B and a tie are many."""


def words_of(name: str) -> list[str]:
    """The words in the name of a column: ``preferredModel_A`` → preferred, model, a."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])", " ", name)
    return [word for word in re.split(r"[^a-z0-9]+", parted.lower()) if word]


def normalised(value: Any) -> str:
    """A value as one lower-case text without brackets, quotes and underscores; whole floats are whole numbers."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = re.sub(r"[\s_\-]+", " ", str(value).strip().casefold()).strip(" ()[]'\"`*.:")
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text)


def side_of(value: Any, meanings: Mapping[str, Side] | None = None) -> Side | None:
    """Who won, or None if the value says nothing that is known.

    Args:
        value: A text or a number. ``True`` and ``0`` are not known: what they mean differs between tools.
        meanings: Value → who won, asked first; as ``data.winner_values`` has it.
    """
    for known, side in (meanings or {}).items():
        if str(value).strip() == known or normalised(value) == normalised(known):
            return side
    if isinstance(value, bool):
        return None
    text = normalised(value)
    if _TIE.fullmatch(text):
        return "tie"
    ordered = _ORDER.fullmatch(text)
    if ordered and ordered["left"] != ordered["right"]:
        return "first" if (ordered["left"] == "a") == (ordered["sign"][0] == ">") else "second"
    found = _SIDE.fullmatch(text)
    return None if found is None else "first" if found["first"] else "second"


def is_neutral(chosen: str, rejected: str) -> bool:
    """Whether the names of the two columns of responses do not say which of them was preferred."""
    return not _PREFERS & {*words_of(chosen), *words_of(rejected)}


@dataclass
class Columns:
    """The names of all columns seen, and of each the distinct values, while they are few.

    Attributes:
        values: Name → values as :func:`normalised` has them; None where they are many, or no texts and numbers.
    """

    values: dict[str, set[str] | None] = field(default_factory=dict)

    def see(self, row: Mapping[str, Any]) -> None:
        """Take in a row."""
        for name, value in row.items():
            seen = self.values.setdefault(name, set())
            if seen is None or value is None or value == "":
                continue
            if isinstance(value, str | int | float) and len(str(value)) < 60:
                seen.add(normalised(value))
            else:
                self.values[name] = None
            if len(seen) > MOST_VALUES:
                self.values[name] = None

    def winners(self, mapped: Collection[str]) -> list[str]:
        """The columns that look as if they said who won, the likeliest first, without those that are mapped.

        A column does if its values all say who won in words (``model_a``, ``left``), or its name says so (``winner``,
        ``preference``) or may say so (``label``) and its values are few letters or numbers that can.
        """
        ranked = [
            (rank, name)
            for name, seen in self.values.items()
            if name not in mapped and (rank := _likeness(words_of(name), seen))
        ]
        return [name for _, name in sorted(ranked, key=lambda one: one[0])]

    def responses(self) -> tuple[str, str] | None:
        """Two columns whose names differ only in A and B, 1 and 2 and the like; of responses rather than of models."""
        found = []
        for name in self.values:
            for other in self.values:
                mine, theirs = words_of(name), words_of(other)
                if _differ_in_side(mine, theirs) and not _likeness(mine, self.values[name]):
                    found.append((bool({"model", "system", "id", "name"} & {*mine}), name, other))
        return min(found, key=lambda one: one[0])[1:] if found else None


def _likeness(words: list[str], values: set[str] | None) -> int:
    """1 for a name that says who won, 2 for one that may and values that can, 3 for values that do; 0 for none."""
    if _WINNER & {*words}:
        return 1
    if not values:
        return 0
    sides = [side_of(value) for value in values]
    told = not {"first", "second"}.isdisjoint(sides) and sides.count(None) < len(sides) / 2
    if _MAY_WIN & {*words} and (told or all(_NUMBER.fullmatch(value) for value in values)):
        return 2
    in_words = any(len(value) > 1 and not _NUMBER.fullmatch(value) for value in values)
    return 3 if in_words and None not in sides and {"first", "second"} <= {*sides} else 0


def _differ_in_side(mine: list[str], theirs: list[str]) -> bool:
    if len(mine) != len(theirs):
        return False
    places = [place for place, (one, other) in enumerate(zip(mine, theirs, strict=True)) if one != other]
    if len(places) != 1:
        return False
    one, other = mine[places[0]], theirs[places[0]]
    firsts, seconds = _FIRST.split("|"), _SECOND.split("|")
    pairs = {*zip(firsts, seconds, strict=True), ("0", "1")}
    return (one, other) in pairs
