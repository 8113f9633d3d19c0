"""The settings of a reward by reward models, apart from what computes, so that a configuration is read quickly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from fedvpa.core.config import Config


class RewardModelConfig(Config):
    """Which model scores which preference.

    Attributes:
        models: Preference → local folder or hub id of a model with a head of a single output.
        tokens_per_batch: Upper bound of rows × longest row; 4,096 chosen by us: eight full responses of 512 tokens.
        dtype: Precision of the forward pass; ``auto`` is bfloat16 on a GPU and float32 elsewhere.
        device: ``auto`` (a GPU if there is one), or any torch device.
    """

    models: Mapping[str, str] = Field(min_length=1)
    tokens_per_batch: int = Field(default=4096, ge=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
