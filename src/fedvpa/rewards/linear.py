"""A linear reward of fixed features, fitted to labelled pairs, and how well it orders pairs that it was not fitted to.

The reward of a response with features h is w·h. Its weights maximise the Bradley–Terry likelihood of the labels,

    Σ log σ(w·(h(chosen) − h(rejected))) − (λ/2) ‖w ∘ s‖²,

where s is the root mean square of each column's differences, so that the units of a feature do not matter. Nothing is
added to w·h: only differences of rewards have a meaning. λ is chosen on pairs that are held out in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression

from fedvpa.core.seeds import entropy
from fedvpa.core.short_repr import short_repr

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
"""Values of λ that are tried. Chosen by us: from almost none to far more than there are pairs in sets of this kind."""

FOLDS = 5
"""So many parts are held out in turn. Chosen by us: a model for the estimate then has four fifths of the pairs."""

MAX_STEPS = 2000


@dataclass(frozen=True, repr=False)
class LinearFit:
    """A linear reward and what pairs that it was not fitted to say about it.

    Attributes:
        weights: w; [d].
        strength: λ.
        margins: w·Δh of every pair in nats, under weights that were fitted to pairs of other prompts, with a λ that was
            chosen on those too; [n].
    """

    weights: Float[np.ndarray, " d"]
    strength: float
    margins: Float[np.ndarray, " n"]

    __repr__ = short_repr


def fit_linear(delta: Float[np.ndarray, "n d"], units: Sequence[str]) -> LinearFit:
    """Fit the reward on all pairs, and on all parts but one for the pairs of that part.

    Args:
        delta: Features of the chosen less those of the rejected response.
        units: What belongs together, such as the prompt of each pair: it is in one part. At least two different ones.
    """
    strength = _choose(delta, folds_of(units, "choice"))
    margins = np.zeros(len(delta))
    folds = folds_of(units, "estimate")
    for fold in np.unique(folds):
        held = folds == fold
        rest = [unit for unit, out in zip(units, held, strict=True) if not out]
        inner = _choose(delta[~held], folds_of(rest, "choice"))
        margins[held] = delta[held] @ fit_weights(delta[~held], inner)
    return LinearFit(fit_weights(delta, strength), strength, margins)


def folds_of(units: Sequence[str], purpose: str) -> Int[np.ndarray, " n"]:
    """In which part each pair is held out: parts of about equal size, by the hash of the unit."""
    order = sorted(dict.fromkeys(units), key=lambda unit: entropy(0, "judge", purpose, unit))
    number = {unit: place % FOLDS for place, unit in enumerate(order)}
    return np.array([number[unit] for unit in units], dtype=np.int64)


def fit_weights(delta: Float[np.ndarray, "n d"], strength: float) -> Float[np.ndarray, " d"]:
    """The weights for one λ."""
    scale = np.sqrt((delta.astype(np.float64) ** 2).mean(0))
    scale[scale == 0] = 1.0  # a column that never differs gets the weight 0
    # A pair and its mirror image have the same likelihood, so half of them are mirrored: the solver wants two classes.
    labels = np.arange(len(delta)) % 2
    mirrored = delta / scale * np.where(labels == 1, 1.0, -1.0)[:, None]
    model = LogisticRegression(C=1 / strength, fit_intercept=False, max_iter=MAX_STEPS, tol=1e-6)
    weights: Float[np.ndarray, " d"] = model.fit(mirrored, labels).coef_[0] / scale
    return weights


def _choose(delta: Float[np.ndarray, "n d"], folds: Int[np.ndarray, " n"]) -> float:
    """The λ under which held-out labels are most likely."""
    found = np.zeros(len(STRENGTHS))
    for fold in np.unique(folds):
        held = folds == fold
        for place, strength in enumerate(STRENGTHS):
            margins = delta[held] @ fit_weights(delta[~held], strength)
            found[place] -= np.logaddexp(0.0, -margins).sum()
    return STRENGTHS[int(found.argmax())]
