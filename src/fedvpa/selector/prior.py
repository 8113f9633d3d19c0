"""The hierarchical prior over a user's latent: z | m ~ N(μ_m, Σ_m), m ~ π, with Σ_m diagonal.

A component is a group of users: μ_m is what the group wants, Σ_m how far its members differ from each other. Its limits
are known models: Σ → 0 leaves groups without individuals (with M = 1 one model for all), and one wide component leaves
individuals without groups (ridge regression for each user alone).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.short_repr import short_repr
from fedvpa.selector.posterior import Posterior, single


@dataclass(frozen=True, repr=False)
class Prior:
    """A mixture of m diagonal Gaussians over z, the same for all users or one for each.

    Attributes:
        log_weights: log π, shape [*clients, m]; exp of it sums to 1.
        means: μ, shape [*clients, m, k].
        log_vars: The logarithm of the diagonal of Σ, shape [*clients, m, k]; −∞ for a dimension without variance.
    """

    log_weights: Float[Tensor, "*#clients m"]
    means: Float[Tensor, "*#clients m k"]
    log_vars: Float[Tensor, "*#clients m k"]

    __repr__ = short_repr

    @property
    def mean(self) -> Float[Tensor, "*#clients k"]:
        """E[z]."""
        return self.posterior().mean

    def posterior(self, leading: tuple[int, ...] = ()) -> Posterior:
        """What is known of a user without pairs: the prior itself, with further leading axes."""
        shape = (*leading, *self.means.shape)
        return Posterior(
            self.log_weights.exp().expand(shape[:-1]), self.means.expand(shape), self.log_vars.expand(shape)
        )

    def at_mean(self, leading: tuple[int, ...] = ()) -> Posterior:
        """One component at E[z], as wide as the components are on average."""
        variance = (self.log_weights.exp().unsqueeze(-1) * self.log_vars.exp()).sum(-2)
        mean = self.mean
        return single(mean.expand(*leading, *mean.shape), variance.log().expand(*leading, *mean.shape))

    def times(self, mean: Float[Tensor, "*clients k"], log_var: Float[Tensor, "*clients k"]) -> Prior:
        """The product with a Gaussian, up to its mass: a mixture again, which is how the Gaussian is learned from.

        Of component m remain N(z; μ, σ²) with 1/σ² = 1/Σ_m + 1/v and μ/σ² = μ_m/Σ_m + mean/v, and the weight
        π_m N(μ_m; mean, Σ_m + v).

        Args:
            mean: Of the Gaussian, one for each client.
            log_var: log v, in each dimension.
        """
        own, other = self.log_vars, log_var.unsqueeze(-2)
        total = torch.logaddexp(own, other)
        off = self.means - mean.unsqueeze(-2)
        overlap = -0.5 * (total + off.square() * (-total).exp()).sum(-1)
        means = self.means - (own - total).exp() * off
        return Prior(torch.log_softmax(self.log_weights + overlap, dim=-1), means, own + other - total)


def isotropic(
    log_weights: Float[Tensor, "*#clients m"], means: Float[Tensor, "*#clients m k"], log_var: float
) -> Prior:
    """Components with the same variance in all directions."""
    return Prior(log_weights, means, torch.full_like(means, log_var))
