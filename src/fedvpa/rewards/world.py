"""The exact utilities of the bundled world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from fedvpa.world.judge import judge
from fedvpa.world.users import find_utility


def utilities(
    items: Sequence[tuple[str, str]], preference: str
) -> tuple[Float[np.ndarray, " items"], Bool[np.ndarray, " items"]]:
    """What responses are worth under a preference.

    Args:
        items: (prompt, response) of each.
        preference: The name of a group of the world, such as ``helpful``.

    Returns:
        The utilities, and whether each response is inside the grammar.

    Raises:
        ConfigError: If the world has no such preference.
        DataError: If a prompt is not one of the world's.
    """
    utility = find_utility(preference)
    verdicts = [judge(prompt, text, utility) for prompt, text in items]
    return (
        np.array([verdict.utility for verdict in verdicts], dtype=np.float64),
        np.array([verdict.parsed for verdict in verdicts], dtype=bool),
    )
