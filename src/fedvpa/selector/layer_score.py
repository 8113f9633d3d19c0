"""How well features tell the choices of users: held-out log-likelihood of ridge heads in closed form.

Near zero, the log-likelihood of choices of a linear head w is quadratic: its gradient is the score s = ½ Σ Δh and its
curvature C = ¼ Σ Δh Δhᵀ (Böhning's bound is the same C). Two levels of ridge heads then need no iteration. With the
curvature of an average pair, C̄ = C/n, for every user,

    w₀  = (n C̄ + τ c̄ I)⁻¹ s                        the head that all share,
    w_i = w₀ + (n_i C̄ + κ c̄ I)⁻¹ (s_i − n_i C̄ w₀)   that of user i,

where c̄ is the mean eigenvalue of C̄, so that τ and κ are numbers of pairs: a prior as strong as so many. All of it are
sums over users. A head scores pairs of folds that it was not fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from fedvpa.core.short_repr import short_repr

SHARED = (100.0, 300.0, 1000.0, 3000.0, 10000.0)
"""Strengths τ of the shared head that are tried. Chosen by us: from far fewer to far more pairs than data sets of this
kind have dimensions."""

PRIVATE = (30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0, np.inf)
"""Strengths κ of a user's own part that are tried; infinity is none. Chosen by us: on real text a user of 30 to 300
pairs is served best by strengths of a thousand pairs and more, since single choices say little."""

SMALLEST = 1e-12
"""The least mean curvature, so that features without differences give heads of 0."""


@dataclass(frozen=True, repr=False)
class FoldedPairs:
    """Pairs of several users, dealt to folds.

    Attributes:
        user: Whose each pair is, from 0.
        fold: In which fold it is, from 0.
        weight: Importance weights.
    """

    user: Int[np.ndarray, " n"]
    fold: Int[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]

    __repr__ = short_repr

    @property
    def users(self) -> int:
        """How many users there are."""
        return int(self.user.max(initial=-1)) + 1


@dataclass(frozen=True, repr=False)
class LayerScore:
    """What held-out pairs say of features.

    Attributes:
        log_likelihood: Of each pair under the head of its user, at the best strengths, in nats.
        right: 1 where the head orders the pair as the user did, ½ where it says nothing.
        weight: Importance weights.
    """

    log_likelihood: Float[np.ndarray, " n"]
    right: Float[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]

    __repr__ = short_repr

    @property
    def mean(self) -> float:
        """Mean log-likelihood, in nats per pair."""
        return float(np.average(self.log_likelihood, weights=self.weight))

    @property
    def accuracy(self) -> float:
        """The share of the pairs that are ordered right."""
        return float(np.average(self.right, weights=self.weight))

    def gain(self, other: LayerScore, user: Int[np.ndarray, " n"]) -> tuple[float, float]:
        """How much larger its mean log-likelihood is than another's, and the standard error of that over users."""
        difference = self.weight * (self.log_likelihood - other.log_likelihood)
        sums, weights = np.bincount(user, difference), np.bincount(user, self.weight)
        mean = sums.sum() / weights.sum()
        count = len(sums)
        spread = np.sqrt(((sums - mean * weights) ** 2).sum() * count / max(count - 1, 1)) / weights.sum()
        return float(mean), float(spread)


def score_features(delta: Float[np.ndarray, "n d"], pairs: FoldedPairs) -> LayerScore:
    """Every pair under a head that was fitted on the other folds, at the strengths that are best for all pairs.

    Args:
        delta: Scaled Δh = h(chosen) − h(rejected).
        pairs: Whose they are, and in which fold.
    """
    margins = np.zeros((len(SHARED), len(PRIVATE), len(delta)))
    for fold in np.unique(pairs.fold):
        held = pairs.fold == fold
        margins[:, :, held] = _margins(delta, pairs, ~held, held)
    found = -np.logaddexp(0.0, -margins)
    best = np.unravel_index(int((found @ pairs.weight).argmax()), found.shape[:2])
    return LayerScore(found[best], (1 + np.sign(margins[best])) / 2, pairs.weight)


def _margins(
    delta: Float[np.ndarray, "n d"], pairs: FoldedPairs, fitted: NDArray[np.bool_], held: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Margins of the held pairs at all strengths, shape [τ, κ, held], under heads fitted on the fitted ones."""
    weight, user = pairs.weight[fitted], pairs.user[fitted]
    some = delta[fitted].astype(np.float64)
    count = np.bincount(user, weight, minlength=pairs.users)[:, None]
    values, basis = np.linalg.eigh((some * weight[:, None]).T @ some / (4 * weight.sum()))
    values, turned = np.maximum(values, 0.0), some @ basis
    score = np.zeros((pairs.users, turned.shape[1]))
    np.add.at(score, user, turned * weight[:, None] / 2)
    level, there = max(values.mean(), SMALLEST), delta[held].astype(np.float64) @ basis
    found = np.zeros((len(SHARED), len(PRIVATE), len(there)))
    for row, shared in enumerate(SHARED):
        head = score.sum(0) / (weight.sum() * values + shared * level)
        residual = score - count * values * head
        for column, private in enumerate(PRIVATE):
            own = residual / (count * values + private * level) if np.isfinite(private) else np.zeros_like(score)
            found[row, column] = np.einsum("nd,nd->n", there, (head + own)[pairs.user[held]])
    return found
