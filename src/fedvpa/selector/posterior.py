"""Posteriors over a user's latent: a Gaussian, or a mixture of Gaussians with one component per prototype."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.short_repr import short_repr


@dataclass(frozen=True, repr=False)
class Posterior:
    """A mixture of diagonal Gaussians over z, for any leading client axes.

    Attributes:
        weights: Component weights (for prototypes: the responsibilities), shape [*clients, m], summing to 1.
        means: Component means, shape [*clients, m, k].
        log_vars: Component log-variances, shape [*clients, m, k].
    """

    weights: Float[Tensor, "*clients m"]
    means: Float[Tensor, "*clients m k"]
    log_vars: Float[Tensor, "*clients m k"]

    __repr__ = short_repr

    @property
    def mean(self) -> Float[Tensor, "*clients k"]:
        """E[z]."""
        return (self.weights.unsqueeze(-1) * self.means).sum(-2)

    def gaussian(self) -> tuple[Float[Tensor, "*clients k"], Float[Tensor, "*clients k"]]:
        """The Gaussian of the same mean and variance: mean and log-variance."""
        mean = self.mean
        spread = (self.means - mean.unsqueeze(-2)).square() + self.log_vars.exp()
        return mean, (self.weights.unsqueeze(-1) * spread).sum(-2).log()

    def __getitem__(self, client: int | slice | Tensor) -> Posterior:
        """The posterior of one or some clients of the first leading axis."""
        return Posterior(self.weights[client], self.means[client], self.log_vars[client])


def single(mean: Float[Tensor, "*clients k"], log_var: Float[Tensor, "*clients k"]) -> Posterior:
    """A posterior with one component."""
    return Posterior(torch.ones_like(mean[..., :1]), mean.unsqueeze(-2), log_var.unsqueeze(-2))
