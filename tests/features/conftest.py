"""Pairs whose lengths all differ; models from ``tiny_models``."""

from __future__ import annotations

import numpy as np
import pytest

from fedvpa.data.schema import Pair, PairTable
from tiny_models import WORDS, model_folder, tokenizer_of

__all__ = ["model_folder", "table", "tokenizer_of"]


def words(rng: np.random.Generator, count: int) -> str:
    return " ".join(WORDS[int(place)] for place in rng.integers(len(WORDS), size=count))


@pytest.fixture(scope="session")
def table() -> PairTable:
    """13 pairs; prompts of 0 to 23 words, responses of 1 to 19."""
    rng = np.random.default_rng(5)
    sizes = [(int(rng.integers(0, 24)), int(rng.integers(1, 20)), int(rng.integers(1, 20))) for _ in range(12)]
    sizes.append((23, 19, 2))
    return PairTable(tuple(Pair(*(words(rng, size) for size in row), pair_id=f"p{n}") for n, row in enumerate(sizes)))
