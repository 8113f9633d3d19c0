"""Whether a text is still language: what no taste may buy.

A policy that is trained on a user's taste finds texts that score well and that nobody would read. Three numbers of a
text are compared with what nearly all samples of the base model reach, and a text falls short by the share that it
lacks of the worst one. A reward reads a text and nothing else, so the log-probability under the base model, which a
guard of the training can look at, is no part of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from fedvpa.styles.words import FUNCTION_WORDS, LONGEST_WORD, WORD, words

MEASURES = ("words", "distinct_2", "function_words", "plain_text")
"""What is compared; see :func:`measures`."""

FLOOR_QUANTILE = 0.02
"""The share of the base model's own samples that falls short of a floor, for each measure. Chosen by us: small, so that
taste decides between ordinary texts, and not so small that a single odd sample sets the floor."""

LEAST_WORDS = 5.0
"""The highest floor of the number of words. Chosen by us: a taste for short answers is a taste, and one word is no
answer. Models whose samples are nearly all cut at the limit would have a much higher floor."""

DEGENERATE = 0.5
"""From this shortfall on a text is no text that can be read. Chosen by us: a text that repeats every second pair of
words, or has half as many function words as nearly all samples."""

SMOOTHING = 10
"""So many words of the base model's average are added where the share of function words is counted: a short answer
may have none. Chosen by us."""


def distinct_2(found: Sequence[str]) -> float:
    """Share of the pairs of neighbouring words that differ from all before (distinct-2 of Li et al., NAACL 2016)."""
    pairs = list(itertools.pairwise(found))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def function_words(found: Sequence[str], usual: float) -> float:
    """Share of words that are frequent English function words, with :data:`SMOOTHING` words of the share ``usual``."""
    counted = sum(word in FUNCTION_WORDS for word in found)
    return (counted + SMOOTHING * usual) / (len(found) + SMOOTHING)


def plain_text(text: str) -> float:
    """Share of the characters that are spaces, or letters of words of :data:`LONGEST_WORD` letters at most."""
    spaces = sum(letter.isspace() for letter in text)
    lengths = (len(word) for word in WORD.findall(text))
    return (spaces + sum(length for length in lengths if length <= LONGEST_WORD)) / len(text) if text else 0.0


def measures(text: str, usual: float) -> tuple[float, ...]:
    """The measures of a text, in the order of :data:`MEASURES`.

    Args:
        text: The text.
        usual: The base model's average share of function words.
    """
    found = words(text)
    return float(len(found)), distinct_2(found), function_words(found, usual), plain_text(text)


@dataclass(frozen=True)
class Fluency:
    """What nearly all samples of a base model reach.

    Attributes:
        usual: The average share of function words of the samples.
        floors: Of each of :data:`MEASURES`.
    """

    usual: float
    floors: tuple[float, ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Fluency:
        """The floors of samples: the :data:`FLOOR_QUANTILE` of each measure, of words at most :data:`LEAST_WORDS`."""
        found = [words(text) for text in texts]
        total = sum(map(len, found))
        usual = sum(word in FUNCTION_WORDS for own in found for word in own) / total if total else 0.0
        values = np.array([measures(text, usual) for text in texts])
        count, *others = (float(floor) for floor in np.quantile(values, FLOOR_QUANTILE, axis=0))
        return cls(usual, (min(count, LEAST_WORDS), *others))

    def shortfall(self, texts: Sequence[str]) -> Float[np.ndarray, " texts"]:
        """How far texts fall short of the floors: max over measures of 1 − value/floor, from 0 (not at all) to 1."""
        values = np.array([measures(text, self.usual) for text in texts]).reshape(-1, len(MEASURES))
        floors = np.array(self.floors)
        short = np.where(floors > 0, 1.0 - values / np.where(floors > 0, floors, 1.0), 0.0)
        empty = values[:, 0] == 0
        return np.where(empty, 1.0, short.max(axis=1).clip(0.0, 1.0))


def readable(shortfall: Float[np.ndarray, " texts"]) -> Bool[np.ndarray, " texts"]:
    """Whether texts can be read: those that fall short by less than :data:`DEGENERATE`."""
    return shortfall < DEGENERATE
