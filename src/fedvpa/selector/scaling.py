"""From raw features to what a selector sees: each dimension standardised, each layer of one norm, then turned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fedvpa.core.short_repr import short_repr
from fedvpa.features.standardise import Standardiser

SMALLEST_RMS = 1e-6

BESIDE = 6.0
"""The factor on what stands beside the layers. One number among hundreds that are each of size 1 is shrunk as each of
them, and cannot speak up. Chosen by us on validation splits of HH-RLHF objectives, for the log length: 3 and 12 are as
good within noise, 1 loses a point of accuracy."""


@dataclass(frozen=True, repr=False)
class Scaling:
    """h ↦ (h − mean)/scale; then, unless switched off, h ↦ h/rms(h) for each layer; then, if asked for, h ↦ Rᵀh.

    Attributes:
        standardiser: Mean and scale of each dimension, from additive statistics of the training clients.
        rms: Whether each layer of each response is brought to root mean square 1. Preference features are heavy-tailed:
            without it a few outlying responses decide a client's evidence. Each layer on its own, so that none
            dominates the others.
        rotation: R, orthonormal columns; see :mod:`fedvpa.selector.rotation`. None for no rotation.
        blocks: How many dimensions each layer has, in their order. What follows them is no layer's and is only
            standardised: surface features. Empty for a single layer that has all.
        surface: Whether surface features are read. If not, each has its mean in every response, so no difference of
            responses depends on them.
    """

    standardiser: Standardiser
    rms: bool
    rotation: Float[np.ndarray, "d D"] | None = None
    blocks: tuple[int, ...] = ()
    surface: bool = True

    __repr__ = short_repr

    @property
    def dimension(self) -> int:
        """D, the length of a scaled feature vector."""
        return len(self.standardiser.mean) if self.rotation is None else int(self.rotation.shape[1])

    @property
    def beside(self) -> int:
        """How many of the last dimensions are no layer's."""
        return len(self.standardiser.mean) - sum(self.blocks) if self.blocks else 0

    def __call__(self, features: Float[np.ndarray, "*batch d"]) -> Float[Tensor, "*batch D"]:
        """Scaled features, float32."""
        scaled = torch.from_numpy(self.standardiser.apply(features))
        if self.rms:
            scaled = self._normed(scaled)
        if not self.surface and self.blocks:
            scaled[..., sum(self.blocks) :] = 0
        return scaled if self.rotation is None else scaled @ torch.from_numpy(self.rotation)

    def exact(self, features: Float[np.ndarray, "*batch d"]) -> NDArray[np.float64]:
        """The same before rotation, in float64: for sums that machines compute in parts and must agree on."""
        scaled = torch.from_numpy(self.standardiser.exact(features))
        return (self._normed(scaled) if self.rms else scaled).numpy()

    def _normed(self, scaled: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Each layer of root mean square 1."""
        if len(self.blocks) <= 1 and sum(self.blocks) in (0, scaled.shape[-1]):
            return scaled / _rms(scaled)
        layers = scaled.split([*self.blocks, self.beside], dim=-1)
        return torch.cat([layer / _rms(layer) for layer in layers[:-1]] + [BESIDE * layers[-1]], dim=-1)


def _rms(layer: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch 1"]:
    return layer.square().mean(-1, keepdim=True).sqrt().clamp(min=SMALLEST_RMS)
