"""How z comes from a user's labelled pairs: the ways by name. ``docs/plugins.md`` says how to add one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.registry import Registry
from fedvpa.core.tree import below
from fedvpa.selector.encoder import encode
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.posterior import Posterior, single
from fedvpa.selector.prior import Prior
from fedvpa.selector.refinement import at_prototypes, evidence, laplace
from fedvpa.selector.simplex import adapt_weights, fit_weights
from fedvpa.selector.vote import majority_margins
from fedvpa.selector.weights import SelectorWeights


def mean_margins(each: Float[Tensor, "*batch m n"], weights: Float[Tensor, "*#batch m"]) -> Float[Tensor, "*batch n"]:
    """E_q of the margins at the posterior's components."""
    return (weights.unsqueeze(-1) * each).sum(-2)


@dataclass(frozen=True)
class Inference:
    """One way of inferring z.

    Attributes:
        infer: (selector, labelled pairs) → the posterior over z, for any leading client axes. It reads nothing else.
        margins: (margins [*, m, n] at the m components, their weights [*, m]) → one margin for each pair [*, n].
        reads_pairs: Whether the posterior depends on the user's pairs at all.
        latent: Whether z is a latent that training learned, so that the z of two users can be compared. It is not
            where z is the same for all, or is a head of the user's own.
        prior: (selector, labelled pairs) → the prior around whose components it takes Newton steps, so that a
            component's covariance is known in full; see :func:`fedvpa.selector.refinement.laplace`. None for the
            ways that take none: of these the posterior has all.
    """

    infer: Callable[[SelectorWeights, Pairs], Posterior]
    margins: Callable[[Tensor, Tensor], Tensor] = mean_margins
    reads_pairs: bool = True
    latent: bool = True
    prior: Callable[[SelectorWeights, Pairs], Prior] | None = None

    @property
    def newton(self) -> bool:
        """Whether it solves systems of equations, for which a batch of clients needs memory."""
        return self.prior is not None


def _amortised(selector: SelectorWeights, context: Pairs) -> Posterior:
    encoder = below("encoder", selector.params)
    return single(*encode(encoder, context.delta, context.weight, selector.config.encoder))


def _responsibilities(selector: SelectorWeights, context: Pairs) -> Posterior:
    likelihood = evidence(selector.head, below("head", selector.params), context, selector.prototypes)
    return at_prototypes(likelihood, selector.prior, selector.gain)


def _updated(selector: SelectorWeights, context: Pairs) -> Prior:
    """The prior times the amortised posterior."""
    encoder = below("encoder", selector.params)
    return selector.prior.times(*encode(encoder, context.delta, context.weight, selector.config.encoder))


def _amortised_responsibilities(selector: SelectorWeights, context: Pairs) -> Posterior:
    prior = replace(selector.prior, log_weights=_updated(selector, context).log_weights)
    likelihood = evidence(selector.head, below("head", selector.params), context, prior.means)
    return at_prototypes(likelihood, prior, selector.gain)


def _penalty(selector: SelectorWeights, context: Pairs) -> Prior:
    """The prior that is ridge regression's penalty."""
    fixed = selector.inference.precision
    precision = selector.inference.decay * context.count.where(context.count > 0, 1.0)  # of nothing, z = 0 anyhow
    log_var = -(precision if fixed is None else torch.full_like(precision, fixed)).log()
    shape = (*log_var.shape, *selector.prototypes.shape)
    return replace(selector.prior, log_vars=log_var[..., None, None].expand(shape))


def _newton(prior: Callable[[SelectorWeights, Pairs], Prior], *, latent: bool = True) -> Inference:
    """Laplace's approximation around every component of a prior."""

    def infer(selector: SelectorWeights, context: Pairs) -> Posterior:
        head = below("head", selector.params)
        return laplace(selector.head, head, context, prior(selector, context), selector.gain)

    return Inference(infer, latent=latent, prior=prior)


def _simplex(selector: SelectorWeights, context: Pairs) -> Posterior:
    margins = selector.head.margins(below("head", selector.params), context, selector.prototypes, None)
    steps, rate = selector.inference.steps, selector.inference.rate
    if steps is None:
        weights = fit_weights(margins, context.weight)
    else:
        start = selector.log_prior.expand(margins.shape[:-1])
        weights = torch.softmax(adapt_weights(start, margins, context.weight, steps, rate), -1)
    z = weights @ selector.prototypes
    return single(z, selector.prior.log_vars[0].expand_as(z))


AMORTISED = Inference(_amortised)
AMORTISED_LAPLACE = _newton(_updated)
AMORTISED_RESPONSIBILITIES = Inference(_amortised_responsibilities)
LAPLACE = _newton(lambda selector, context: selector.prior)
NONE = Inference(
    lambda selector, context: selector.prior_mean(context.weight.shape[:-1]), reads_pairs=False, latent=False
)
RESPONSIBILITIES = Inference(_responsibilities)
RIDGE = _newton(_penalty, latent=False)
SIMPLEX = Inference(_simplex)
VOTE = Inference(
    lambda selector, context: selector.each_prototype(context.weight.shape[:-1]),
    margins=lambda each, weights: majority_margins(each),
    reads_pairs=False,
    latent=False,
)

INFERENCES: Registry[Inference] = Registry(
    "inference",
    {
        "amortised": f"{__name__}:AMORTISED",
        "amortised_laplace": f"{__name__}:AMORTISED_LAPLACE",
        "amortised_responsibilities": f"{__name__}:AMORTISED_RESPONSIBILITIES",
        "laplace": f"{__name__}:LAPLACE",
        "none": f"{__name__}:NONE",
        "responsibilities": f"{__name__}:RESPONSIBILITIES",
        "ridge": f"{__name__}:RIDGE",
        "simplex": f"{__name__}:SIMPLEX",
        "vote": f"{__name__}:VOTE",
    },
    fits=lambda entry: isinstance(entry, Inference),
    shape="a fedvpa.selector.inference.Inference",
)
"""Name → how z comes from labelled pairs."""
