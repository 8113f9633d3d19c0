"""The settings of the reward that ``fedvpa judge`` trains, apart from what computes."""

from __future__ import annotations

from fedvpa.core.config import Config


class HeldOutConfig(Config):
    """Which trained reward model judges.

    Attributes:
        path: The folder that ``fedvpa judge`` wrote.
        encoder: Where its language model is now, a folder or a hub id; empty for where it was when it was trained.
        device: ``auto`` (a GPU if there is one), or any torch device.
    """

    path: str
    encoder: str = ""
    device: str = "auto"
