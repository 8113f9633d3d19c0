"""The exact utilities of the bundled world as a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fedvpa.core.errors import ConfigError
from fedvpa.data.schema import Text
from fedvpa.data.text import plain_text
from fedvpa.rewards.base import ExactReward
from fedvpa.world.judge import judge
from fedvpa.world.users import find_utility


class WorldReward(ExactReward):
    """What a response is worth to a group of the bundled world.

    A text outside the world's grammar is scored too: it is worth less than any text inside.
    """

    @property
    def name(self) -> str:
        """``world``."""
        return "world"

    def utilities(
        self, items: Sequence[tuple[Text, str]], preference: str
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
        verdicts = [judge(plain_text(prompt), text, utility) for prompt, text in items]
        return (
            np.array([verdict.utility for verdict in verdicts], dtype=np.float64),
            np.array([verdict.parsed for verdict in verdicts], dtype=bool),
        )


def make_world_reward(settings: Mapping[str, Any]) -> WorldReward:
    """The world's reward, from a configuration.

    Raises:
        ConfigError: For any setting: there is nothing to set.
    """
    if settings:
        raise ConfigError(f"The world's reward takes no settings, but was given {', '.join(sorted(settings))}.")
    return WorldReward()
