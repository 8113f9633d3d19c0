"""Properties of a response: small functions of its text, each a number.

They count English words and signs. Every one is computed from the text alone, so whoever has a text knows its
properties exactly. Shares and means of a text without words are 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from fedvpa.core.errors import ConfigError, nearest
from fedvpa.styles.words import (
    CONNECTIVES,
    CONTRACTED_IS,
    CONTRACTION_ENDINGS,
    EXAMPLES,
    FIRST_PERSON,
    FORMAL_ENDINGS,
    HEDGES,
    LIST_ITEM,
    LONGEST_WORD,
    REFUSALS,
    SECOND_PERSON,
    WARM,
    lines,
    sentences,
    syllables,
    words,
)


def length(text: str) -> float:
    """ln(1 + words)."""
    return math.log1p(len(words(text)))


def sentence_length(text: str) -> float:
    """Ln of the mean number of words in a sentence."""
    found = sentences(text)
    return math.log(len(words(text)) / len(found)) if found else 0.0


def word_length(text: str) -> float:
    """Mean number of letters of a word; one of more than :data:`LONGEST_WORD` counts as that."""
    found = words(text)
    return sum(min(len(word), LONGEST_WORD) for word in found) / len(found) if found else 0.0


def grade(text: str) -> float:
    """The Flesch–Kincaid grade: years of school that a reader needs.

    0.39·words/sentences + 11.8·syllables/words − 15.59 (Kincaid, Fishburne, Rogers and Chissom, Derivation of New
    Readability Formulas, 1975); syllables are counted by a rule of thumb.
    """
    found, ends = words(text), len(sentences(text))
    if not ends:
        return 0.0
    return 0.39 * len(found) / ends + 11.8 * sum(map(syllables, found)) / len(found) - 15.59


def lists(text: str) -> float:
    """Share of the lines that are items of a list."""
    found = lines(text)
    return sum(bool(LIST_ITEM.match(line)) for line in found) / len(found) if found else 0.0


def line_count(text: str) -> float:
    """ln(1 + lines that are not blank): prose in one paragraph has one."""
    return math.log1p(len(lines(text)))


def formal(text: str) -> float:
    """Share of words of seven letters or more with an ending from Latin or Greek."""
    return _share(text, lambda word: len(word) >= 7 and word.endswith(FORMAL_ENDINGS))


def contractions(text: str) -> float:
    """Share of contracted words, such as ``don't``: they are informal."""
    return _share(text, lambda word: word.endswith(CONTRACTION_ENDINGS) or word in CONTRACTED_IS)


def hedges(text: str) -> float:
    """Share of words that make a claim weaker, such as ``may`` or ``usually``."""
    return _share(text, HEDGES.__contains__)


def refusals(text: str) -> float:
    """1 if the text says that it does not do what was asked, else 0."""
    return float(REFUSALS.search(text.lower().replace("’", "'")) is not None)


def questions(text: str) -> float:
    """Share of sentences that are questions."""
    return _ending(text, "?")


def exclamations(text: str) -> float:
    """Share of sentences that are exclamations."""
    return _ending(text, "!")


def warmth(text: str) -> float:
    """Share of words of warmth and thanks, such as ``glad``."""
    return _share(text, WARM.__contains__)


def digits(text: str) -> float:
    """Share of the characters that are digits; the numbers of list items do not count."""
    plain = LIST_ITEM.sub("", text)
    return sum(letter.isdigit() for letter in plain) / len(plain) if plain else 0.0


def examples(text: str) -> float:
    """How often an example is announced (``such as``, ``for instance``), for each sentence."""
    found = len(sentences(text))
    return len(EXAMPLES.findall(text.lower())) / found if found else 0.0


def first_person(text: str) -> float:
    """Share of words by which the writer speaks of itself: ``I``, ``my``."""
    return _share(text, FIRST_PERSON.__contains__)


def second_person(text: str) -> float:
    """Share of words by which the reader is spoken to: ``you``, ``your``."""
    return _share(text, SECOND_PERSON.__contains__)


def connectives(text: str) -> float:
    """Share of words that link statements, such as ``however`` or ``because``."""
    return _share(text, CONNECTIVES.__contains__)


def commas(text: str) -> float:
    """Commas for each word."""
    found = len(words(text))
    return text.count(",") / found if found else 0.0


def emphasis(text: str) -> float:
    """1 if the text has Markdown (bold, code or a heading), else 0."""
    return float("**" in text or "`" in text or any(line.startswith("#") for line in lines(text)))


PROPERTIES: Mapping[str, Callable[[str], float]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            length,
            sentence_length,
            word_length,
            grade,
            lists,
            line_count,
            formal,
            contractions,
            hedges,
            refusals,
            questions,
            exclamations,
            warmth,
            digits,
            examples,
            first_person,
            second_person,
            connectives,
            commas,
            emphasis,
        )
    }
)
"""Name → the function."""

NAMES = tuple(PROPERTIES)
"""The order of properties in arrays."""


@lru_cache(maxsize=65_536)  # users of a group, and the judge of several preferences, ask about the same texts
def _measured(text: str) -> tuple[float, ...]:
    return tuple(function(text) for function in PROPERTIES.values())


def measure(texts: Sequence[str]) -> Float[np.ndarray, "texts properties"]:
    """The properties of texts, in the order of :data:`NAMES`."""
    return np.array([_measured(text) for text in texts], dtype=np.float64).reshape(-1, len(NAMES))


def check_property(name: str, where: str = "") -> str:
    """The name itself.

    Raises:
        ConfigError: If there is no such property; names the nearest.
    """
    if name not in PROPERTIES:
        raise ConfigError(f"there is no property {name!r} of a text.", fix=nearest(name, PROPERTIES), where=where)
    return name


def _share(text: str, counts: Callable[[str], bool]) -> float:
    found = words(text)
    return sum(map(counts, found)) / len(found) if found else 0.0


def _ending(text: str, mark: str) -> float:
    """Share of sentences that end with a mark; what closes a quotation or emphasis behind it does not count."""
    found = sentences(text)
    return sum(part.rstrip("\"'”’)* \t").endswith(mark) for part in found) / len(found) if found else 0.0
