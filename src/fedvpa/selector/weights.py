"""What a selector has learned: weights, prototypes and the prior over z, which every way of inferring z reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree
from fedvpa.selector.config import InferenceConfig, SelectorConfig
from fedvpa.selector.heads import HEADS, Head
from fedvpa.selector.posterior import Posterior, single
from fedvpa.selector.prior import Prior, isotropic


@dataclass(frozen=True, repr=False)
class SelectorWeights:
    """What a way of inferring z reads of a selector. Immutable.

    Attributes:
        config: Its shape.
        inference: How z is inferred.
        params: Weights: ``head.*``, ``prototypes`` [m, k], for amortised inference ``encoder.*``, and, where a method
            learned how far users differ from their prototype, ``log_vars`` [m, k].
        log_prior: log π over prototypes, shape [m].
        gain: Inverse temperature of the context's likelihood, a scalar.
    """

    config: SelectorConfig
    inference: InferenceConfig
    params: Tree
    log_prior: Float[Tensor, " m"]
    gain: Tensor

    __repr__ = short_repr

    @property
    def head(self) -> Head:
        """The functions of its kind of head."""
        return HEADS[self.config.head]

    @property
    def prototypes(self) -> Float[Tensor, "m k"]:
        """The prototypes."""
        return self.params["prototypes"]

    @property
    def prior(self) -> Prior:
        """The prior over z: components at the prototypes, as wide as was learned, else as ``inference`` says."""
        means = self.prototypes
        if "log_vars" in self.params:
            return Prior(self.log_prior, means, self.params["log_vars"])
        return isotropic(self.log_prior, means, self.inference.component_log_var)

    def prior_mean(self, leading: tuple[int, ...] = ()) -> Posterior:
        """The posterior that knows nothing: z at the prior's mean. A control: it scores about as one global model."""
        return self.prior.at_mean(leading)

    def each_prototype(self, leading: tuple[int, ...] = ()) -> Posterior:
        """The posterior that weighs all prototypes alike, whatever the prior: one vote for each."""
        known = self.prior.posterior(leading)
        return replace(known, weights=torch.full_like(known.weights, 1 / known.weights.shape[-1]))

    def at_prototype(self, index: Int[Tensor, "*clients"]) -> Posterior:
        """The posterior that sits on one prototype."""
        return single(self.prototypes[index], self.prior.log_vars[index])
