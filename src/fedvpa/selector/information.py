"""What the label of a further pair is expected to say about a user's z, in nats: which pair to ask next.

I(label; z) = H(E[p]) − E[H(p)], with p = σ(margin(z)), z from the posterior and H the entropy of a coin: the expected
loss of entropy of z, by the entropy of the label instead (Houlsby, Huszár, Ghahramani and Lengyel, 2011, arXiv
1112.5745, "Bayesian active learning by disagreement"). It is 0 where z is known, and where all z agree on p, however
noisy the label then is. At most log 2.

The posterior is a mixture of Gaussians. With a head whose margin is linear in z a margin is Gaussian under each
component, and both expectations are sums over the components of one-dimensional integrals. For other heads they are
means over draws of z.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.seeds import torch_generator
from fedvpa.core.tree import below
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.refinement import margin_variances
from fedvpa.selector.selector import Selector

NODES, REACH = 321, 8.0
"""The trapezoidal rule on so many nodes, to so many standard deviations on both sides. For a Gaussian times a function
that is analytic around the axis it converges geometrically, and σ is so up to π: for margins whose standard deviation
is 10 nats the error is below 1e-6 (``tests/selector``), where 64 nodes of Gauss–Hermite leave 0.01. Chosen by us."""

DRAWS = 1024
"""Of z, for heads whose margin is not linear in it: a standard error of at most 0.01. Chosen by us."""


@torch.no_grad()
def expected_information(
    selector: Selector, posterior: Posterior, context: Pairs, pairs: Pairs, *, seed: int = 0
) -> Float[Tensor, " n"]:
    """I(label; z) of each pair for one user, in nats.

    Args:
        selector: The preference model.
        posterior: The user's, from ``selector.infer(context)``.
        context: The pairs that it was inferred from.
        pairs: The pairs that could be asked (scaled features). Which response is ``chosen`` makes no difference.
        seed: Names the draws of z where the head is not linear.
    """
    if selector.head.linear is None:
        return _sampled(selector, posterior, pairs, seed)
    mean, variance = margin_moments(selector, posterior, context, pairs)
    return information(posterior.weights, mean, variance)


def margin_moments(
    selector: Selector, posterior: Posterior, context: Pairs, pairs: Pairs
) -> tuple[Float[Tensor, "m n"], Float[Tensor, "m n"]]:
    """Mean and variance of the margins of one user's pairs under each component of the posterior.

    Arguments as of :func:`expected_information`; the head's margin is linear in z.
    """
    weights = below("head", selector.params)
    mean = selector.head.margins(weights, pairs, posterior.means, None).double()
    if selector.way.prior is not None:
        prior = selector.way.prior(selector, context)
        return mean, margin_variances(selector.head, weights, context, prior, selector.gain, posterior.means, pairs)
    assert selector.head.linear is not None
    slope = selector.head.linear(weights, pairs)[1].double()
    return mean, posterior.log_vars.double().exp() @ slope.square().mT


def information(
    weights: Float[Tensor, " m"], mean: Float[Tensor, "m n"], variance: Float[Tensor, "m n"]
) -> Float[Tensor, " n"]:
    """I(label; z) where the margin of pair n is N(mean, variance) under component m, in nats.

    Args:
        weights: Of the components; they sum to 1.
        mean: Of the margins.
        variance: Of the margins.
    """
    nodes, mass = _normal()
    margin = mean.double().unsqueeze(-1) + variance.double().sqrt().unsqueeze(-1) * nodes
    share = weights.double().reshape(-1, 1, 1) * mass
    return _gained(margin, share.expand_as(margin), (0, 2))


def _sampled(selector: Selector, posterior: Posterior, pairs: Pairs, seed: int) -> Float[Tensor, " n"]:
    """The same as a mean over draws of z."""
    generator = torch_generator(seed, "expected-information")
    row = torch.multinomial(posterior.weights, DRAWS, replacement=True, generator=generator)
    noise = torch.randn(DRAWS, posterior.means.shape[-1], generator=generator)
    z = posterior.means[row] + (0.5 * posterior.log_vars[row]).exp() * noise
    margin = selector.head.margins(below("head", selector.params), pairs, z, None).double()
    return _gained(margin, torch.full_like(margin, 1 / DRAWS), (0,))


def _gained(margin: Tensor, share: Tensor, over: tuple[int, ...]) -> Tensor:
    """H(E[p]) − E[H(p)]; rounding must not make it negative."""
    first, second = torch.sigmoid(margin), torch.sigmoid(-margin)
    marginal = _entropy((share * first).sum(over), (share * second).sum(over))
    return (marginal - (share * _entropy(first, second)).sum(over)).clamp(min=0)


def _entropy(first: Tensor, second: Tensor) -> Tensor:
    """Of a coin, in nats."""
    return -torch.xlogy(first, first) - torch.xlogy(second, second)


@cache
def _normal() -> tuple[Tensor, Tensor]:
    """Nodes of the standard normal, and weights that sum to 1."""
    nodes = torch.linspace(-REACH, REACH, NODES, dtype=torch.float64)
    return nodes, torch.softmax(-0.5 * nodes.square(), dim=0)
