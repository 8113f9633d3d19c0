"""Settings of the reward ``styles``, apart from the reward, so that a configuration is read without NumPy."""

from __future__ import annotations

from fedvpa.core.config import Config


class StylesConfig(Config):
    """Settings of the reward ``styles``.

    Attributes:
        path: The folder that ``fedvpa simulate`` wrote.
    """

    path: str = ""
