"""KL from a client's posterior to FedVPA-GP's prior: a mixture of components and N(0, I) (E6, E7)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedvpa.objectives.gaussian import (
    gumbel_softmax_log_weights,
    mixture_log_density,
    monte_carlo_kl,
    standard_normal_kl,
)


def mixture_prior_kl(
    z: Float[Tensor, "*clients k"],
    mean: Float[Tensor, "*clients k"],
    log_var: Float[Tensor, "*clients k"],
    components: tuple[Float[Tensor, "*clients j k"], Float[Tensor, "*clients j k"]],
    logits: Float[Tensor, "*clients j"],
    available: Bool[Tensor, "*clients j"],
    noise: Float[Tensor, "*clients j"],
    temperature: Float[Tensor, "*clients 1"] | float,
    normal_weight: float,
) -> Float[Tensor, "*clients"]:
    """KL(q ‖ prior): closed form for N(0, I), one sample for the mixture.

    Args:
        z: A sample of q.
        mean: Mean of q.
        log_var: Log-variance of q.
        components: Means and log-variances of the mixture's j components; with j = 0 the prior is N(0, I).
        logits: The client's log π over the components, unnormalised.
        available: False for a component that the client must not use: its own posterior.
        noise: Gumbel noise, or zeros.
        temperature: Of the Gumbel-Softmax.
        normal_weight: Weight of N(0, I) beside the mixture, which keeps the prior proper.
    """
    normal = standard_normal_kl(mean, log_var)
    means, log_vars = components
    if means.shape[-2] == 0:
        return normal
    # A client whose own posterior is the only component has no mixture: −∞ is kept out of the softmax so that
    # gradients stay finite.
    alone = ~available.any(-1)
    masked = logits.masked_fill(~available & ~alone.unsqueeze(-1), -math.inf)
    log_weights = gumbel_softmax_log_weights(masked, noise, temperature)
    zero = torch.zeros_like(z)
    log_prior = torch.logaddexp(
        math.log1p(-normal_weight) + mixture_log_density(z, means, log_vars, log_weights),
        math.log(normal_weight)
        + mixture_log_density(z, zero.unsqueeze(-2), zero.unsqueeze(-2), torch.zeros_like(z[..., :1])),
    )
    return torch.where(alone, normal, monte_carlo_kl(z, mean, log_var, log_prior))
