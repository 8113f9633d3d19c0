"""From raw features to what a selector sees: standardise each dimension, then bring each response to the same norm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.short_repr import short_repr
from fedvpa.features.standardise import Standardiser

SMALLEST_RMS = 1e-6


@dataclass(frozen=True, repr=False)
class Scaling:
    """h ↦ (h − mean)/scale, then, unless switched off, h ↦ h/rms(h).

    Attributes:
        standardiser: Mean and scale of each dimension, from additive statistics of the training clients.
        rms: Whether each response is brought to root mean square 1. Preference features are heavy-tailed: without it a
            few outlying responses decide a client's evidence.
    """

    standardiser: Standardiser
    rms: bool

    __repr__ = short_repr

    def __call__(self, features: Float[np.ndarray, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Scaled features, float32."""
        scaled = torch.from_numpy(self.standardiser.apply(features))
        if not self.rms:
            return scaled
        return scaled / scaled.square().mean(-1, keepdim=True).sqrt().clamp(min=SMALLEST_RMS)
