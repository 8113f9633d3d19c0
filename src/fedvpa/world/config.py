"""What a configuration says about the bundled world, apart from the world, so that reading one stays quick."""

from __future__ import annotations

from typing import Literal

Pool = Literal["train", "validation", "test"]
"""Prompts that never mix: those that training asks, those that choose settings, and those that evaluation asks."""

DEFAULT_TEMPERATURE = 1.0
"""Bradley–Terry temperature of the labels. Chosen by us: with the utilities of ``users.py``, two-groups has a Bayes
accuracy of 0.82."""
