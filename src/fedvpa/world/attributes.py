"""What a response of the bundled world is like: seven attributes, and every combination of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

from fedvpa.core.errors import ConfigError
from fedvpa.world.lexicon import FILLERS, ORDINALS

MAX_DETAIL = len(ORDINALS)
MAX_WARMTH = 2
MAX_BREVITY = len(FILLERS)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a response is like. The judge and the users see nothing else of it.

    Attributes:
        compliance: Whether it does what was asked.
        detail: Number of details that belong to the intent, 0 to 5.
        caveat: Whether it warns.
        warmth: Number of warm sentences, 0 to 2: the opener and the closer.
        formality: Formal rather than casual, in every sentence.
        brevity: 2 minus the number of filler sentences, 0 to 2.
        off_topic: Number of details that belong to another topic; with ``detail`` at most 5. ``render`` can write
            them, the world's own pairs never have any, and every user dislikes them.

    Raises:
        ConfigError: For a number outside its range.
    """

    compliance: bool
    detail: int
    caveat: bool
    warmth: int
    formality: bool
    brevity: int
    off_topic: int = 0

    def __post_init__(self) -> None:
        ranges = (
            ("detail", self.detail, MAX_DETAIL),
            ("warmth", self.warmth, MAX_WARMTH),
            ("brevity", self.brevity, MAX_BREVITY),
            ("off_topic", self.off_topic, MAX_DETAIL),
            ("detail + off_topic", self.detail + self.off_topic, MAX_DETAIL),
        )
        for name, value, top in ranges:
            if not 0 <= value <= top:
                raise ConfigError(f"No response has {name} {value}.", fix=f"It has to be 0 to {top}.")


@cache
def attribute_grid(off_topic: bool = False) -> tuple[Attributes, ...]:
    """Every combination of attributes.

    Args:
        off_topic: Whether to include responses with off-topic details.

    Returns:
        432 combinations, all equally likely in the world's own responses; 1512 with off-topic details.
    """
    flags, steps = (False, True), range(MAX_DETAIL + 1)
    return tuple(
        Attributes(compliance, detail, caveat, warmth, formality, brevity, off)
        for compliance, detail, caveat, warmth, formality, brevity, off in product(
            flags, steps, flags, range(MAX_WARMTH + 1), flags, range(MAX_BREVITY + 1), steps if off_topic else (0,)
        )
        if detail + off <= MAX_DETAIL
    )


def draw_attributes(rng: np.random.Generator) -> Attributes:
    """One combination of attributes without off-topic details, all equally likely."""
    grid = attribute_grid()
    return grid[int(rng.integers(len(grid)))]
