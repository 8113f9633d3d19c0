"""The exact utilities of users that ``fedvpa simulate`` drew, as a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fedvpa.core.errors import ConfigError
from fedvpa.data.schema import Text
from fedvpa.rewards.base import SETTINGS, ExactReward
from fedvpa.rewards.styles_config import StylesConfig
from fedvpa.styles.simulation import Simulation


class StylesReward(ExactReward):
    """What a response is worth to a simulated group or user.

    It reads the response alone: any text can be scored, as an answer to any prompt. A text that cannot be read is
    worth less than any other.

    Args:
        simulation: The users.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation

    @property
    def name(self) -> str:
        """``styles``."""
        return "styles"

    def utilities(
        self, items: Sequence[tuple[Text, str]], preference: str
    ) -> tuple[Float[np.ndarray, " items"], Bool[np.ndarray, " items"]]:
        """What responses are worth under a preference.

        Args:
            items: (prompt, response) of each; prompts are not read.
            preference: The name of a group, or of a user.

        Returns:
            The utilities, and whether each response can be read.

        Raises:
            ConfigError: If nobody has this preference.
        """
        return self.simulation.utility(preference).values([text for _, text in items])


def make_styles_reward(settings: Mapping[str, Any]) -> StylesReward:
    """The reward, from a configuration.

    Raises:
        ConfigError: For a setting that it does not know, or without ``path``.
        RunError: If the folder holds no simulation.
    """
    config = StylesConfig.parse(settings, *SETTINGS)
    if not config.path:
        raise ConfigError(
            "The reward 'styles' needs the folder of a simulation.",
            fix="Set policy.judging.settings.path=DIR, as fedvpa simulate --out DIR wrote it.",
        )
    return StylesReward(Simulation.load(Path(config.path).expanduser()))
