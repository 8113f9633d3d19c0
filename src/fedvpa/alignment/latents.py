"""Latents of the population: what the selector judges by, and what the policy sees."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedvpa.core.seeds import Label, numpy_generator
from fedvpa.core.short_repr import short_repr
from fedvpa.policy.config import PreferenceConfig
from fedvpa.selector.posterior import Posterior, single
from fedvpa.selector.selector import Selector

ON_PROTOTYPE, BETWEEN = -1, -2
"""Where a latent comes from, if not from a user: it is a prototype, or lies between two, or stands for everybody."""


@dataclass(frozen=True, repr=False)
class Latents:
    """Latents to judge by.

    Attributes:
        posterior: One posterior per latent; the selector scores by it.
        z: What the policy sees, shape [n, k].
        prototype: The prototype that each is nearest to, or the group of the user whom it came from; shape [n].
        user: Whose it is: the row of a seen user, or ``ON_PROTOTYPE`` or ``BETWEEN``; shape [n]. By default nobody's.
    """

    posterior: Posterior
    z: Float[Tensor, "n k"]
    prototype: Int[Tensor, " n"]
    user: Int[Tensor, " n"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if len(self.user) != len(self.z):
            object.__setattr__(self, "user", torch.full((len(self.z),), BETWEEN))

    def __getitem__(self, rows: Tensor) -> Latents:
        """Some of them."""
        return Latents(self.posterior[rows], self.z[rows], self.prototype[rows], self.user[rows])


def draw_latents(
    selector: Selector,
    users: Posterior | None,
    config: PreferenceConfig,
    count: int,
    seed: int,
    *path: Label,
    prototypes: bool = True,
) -> Latents:
    """Latents of the population: prototypes, users' z, mixtures of prototypes; every prototype equally often.

    A user's z is the posterior's mean, as it is when the policy serves that user. Samples around it would be mostly
    noise in the k − m directions that mean nothing, which the policy would have to learn to ignore.

    Args:
        selector: Holds the prototypes.
        users: Posteriors of the seen users, one component per prototype where there are prototypes. None where they are
            on other machines: mixtures of prototypes stand in for them, or, without prototypes, draws from N(0, I),
            which is the prior that such a method is trained with.
        config: Shares of the three.
        count: How many.
        seed: Names, with ``path``, the draws.
        *path: Labels.
        prototypes: Whether the method's prototypes mean anything; otherwise all latents are users' posteriors.
    """
    rng = numpy_generator(seed, "latents", *path)
    if users is None and not prototypes:
        z = torch.from_numpy(rng.standard_normal((count, selector.prototypes.shape[1]))).float()
        return Latents(_at(z), z, torch.zeros(count, dtype=torch.long))
    centre = torch.zeros(0, selector.prototypes.shape[1]) if users is None else users.mean
    if not prototypes:
        rows = torch.from_numpy(rng.permutation(np.arange(count) % len(centre)))
        z = centre[rows]
        return Latents(_at(z), z, torch.zeros(count, dtype=torch.long), rows)
    number = len(selector.prototypes)
    by_prototype = users is not None and users.weights.shape[-1] == number
    nearest = users.weights.argmax(-1).numpy() if users and by_prototype else np.zeros(len(centre), int)
    target = rng.permutation(np.arange(count) % number)
    kind = rng.random(count)
    user = torch.full((count,), ON_PROTOTYPE)
    z = selector.prototypes[torch.from_numpy(target)].clone()
    for row in range(count):
        own = np.flatnonzero(nearest == target[row])
        if kind[row] < config.prototypes:
            continue
        if kind[row] < config.prototypes + config.posteriors and len(own):
            user[row] = int(rng.choice(own))
            z[row] = centre[user[row]]
        elif number > 1:
            other = (target[row] + 1 + int(rng.integers(number - 1))) % number
            share = float(rng.uniform(0.5, 1.0))
            user[row] = BETWEEN
            z[row] = share * selector.prototypes[target[row]] + (1 - share) * selector.prototypes[other]
    return Latents(_at(z), z, torch.from_numpy(target), user)


def _at(z: Float[Tensor, "n k"]) -> Posterior:
    return single(z, torch.full_like(z, -4.0))
