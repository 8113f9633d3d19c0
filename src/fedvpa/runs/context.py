"""Which of a new user's pairs give z, where the others are scored: never the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedvpa.core.seeds import entropy
from fedvpa.data.schema import Pair
from fedvpa.data.splits import prompt_name
from fedvpa.runs.held import content_hash

CONTEXT_SHARE = 0.5
"""The share of a new user's pairs that z is inferred from. Chosen by us: as many to learn from as to be scored on."""


def context_pairs(pairs: Sequence[Pair], user: str) -> NDArray[np.bool_]:
    """Which pairs of a new user give z: about half, drawn by a hash of user and prompt.

    Pairs of one prompt stay together; where all have one prompt, equal pairs do. Nothing is drawn where that leaves no
    pair for either part.
    """
    keys = [prompt_name(pair.prompt) for pair in pairs]
    if len(set(keys)) < 2:
        keys = [str(content_hash(pair)) for pair in pairs]
    counts = Counter(keys)
    order = sorted(counts, key=lambda key: entropy(0, "new-pairs-context", user, key))
    chosen: set[str] = set()
    taken = 0
    for key in order[:-1]:  # the last one is scored in any case
        if chosen and taken + counts[key] / 2 > CONTEXT_SHARE * len(keys):
            break
        chosen.add(key)
        taken += counts[key]
    return np.array([key in chosen for key in keys], dtype=bool)
