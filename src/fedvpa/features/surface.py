"""Surface features: a few numbers that can be counted in a response's text, beside what a language model gives.

Each is the logarithm of a count, so the difference of two responses is the logarithm of a ratio: of ``log_length``,
that of their lengths in characters. They are counted in the whole text, also where the language model reads a part of
it, and are cheap enough to be counted again each time, so no cache holds them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from fedvpa.data.schema import PairTable, Text
from fedvpa.features.config import SurfaceName
from fedvpa.features.store import Beside, FeatureStore

SENTENCE_END = re.compile(r"[.!?…]+(?=\s|$)|[。！？]+")
QUESTION_MARK = re.compile(r"[?？]")
LIST_ITEM = re.compile(r"^[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)

SURFACE: Mapping[SurfaceName, Callable[[str], float]] = MappingProxyType(
    {
        "log_length": lambda text: math.log(max(len(text), 1)),
        "sentences": lambda text: math.log1p(_count(SENTENCE_END, text)),
        "questions": lambda text: math.log1p(_count(QUESTION_MARK, text)),
        "list_items": lambda text: math.log1p(_count(LIST_ITEM, text)),
    }
)
"""Name → the number of a text. Chosen by us: the length ratio is what helps most on real pairs; others are cheap."""


def surface_of(texts: Sequence[Text], names: Sequence[SurfaceName]) -> Float[np.ndarray, "n s"]:
    """The surface features of responses, float32, in the order of ``names``; of messages, those of their contents."""
    plain = [text if isinstance(text, str) else "\n\n".join(turn.content for turn in text) for text in texts]
    return np.array([[SURFACE[name](text) for name in names] for text in plain], np.float32).reshape(-1, len(names))


def with_surface(store: FeatureStore, table: PairTable, names: Sequence[SurfaceName]) -> FeatureStore:
    """The features of a table with the surface features of its responses behind them; as they are if there are none."""
    if not names:
        return store
    chosen = Beside(store.chosen, surface_of([pair.chosen for pair in table.pairs], names))
    rejected = Beside(store.rejected, surface_of([pair.rejected for pair in table.pairs], names))
    return replace(store, chosen=chosen, rejected=rejected)


def _count(pattern: re.Pattern[str], text: str) -> int:
    return sum(1 for _ in pattern.finditer(text))
