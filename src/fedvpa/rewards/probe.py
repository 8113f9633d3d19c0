"""A probe of objectives before a training starts: whether each of them tells samples of the base policy apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fedvpa.core.errors import DataError
from fedvpa.data.schema import Text
from fedvpa.rewards.base import Score
from fedvpa.rewards.objectives import Objective

PROBE_PROMPTS = 32
"""So many prompts are probed. Chosen by us: with 4 samples to each, an objective that varies among the samples of one
prompt in ten is taken for a constant one time in thirty."""

SAME = 1e-9
"""Scores that differ by less than this share of their size are equal: that is rounding."""


@dataclass(frozen=True)
class Probed:
    """What the base policy's samples are worth under one objective.

    Attributes:
        name: Of the objective.
        mean: Of all scores: what a training starts from.
        spread: Root mean square of the standard deviations among the samples of one prompt.
        varies: Share of the prompts whose samples have different scores.
        missing: How many samples have no score.
        reason: Why the first of them has none; empty if none is missing.
    """

    name: str
    mean: float
    spread: float
    varies: float
    missing: int
    reason: str


def probe(
    objectives: Sequence[Objective],
    prompts: Sequence[Text],
    sample: Callable[[Sequence[Text]], Sequence[Sequence[str]]],
) -> tuple[Probed, ...]:
    """Score samples of the base policy, and refuse objectives that cannot be trained towards.

    A group-relative advantage compares the samples of one prompt, so an objective that differs between prompts alone
    teaches nothing and is refused too.

    Args:
        objectives: What is to be optimised.
        prompts: A few of the prompts that train; see :data:`PROBE_PROMPTS`.
        sample: Gives two or more responses to each of some prompts.

    Raises:
        DataError: Naming the first objective whose scores are the same for all samples of every prompt, or all missing.
    """
    samples = [list(own) for own in sample(prompts)]
    items = [(prompt, response) for prompt, own in zip(prompts, samples, strict=True) for response in own]
    groups = np.repeat(np.arange(len(samples)), [len(own) for own in samples])
    found = tuple(_probed(one.name, one.score(items), groups) for one in objectives)
    for result in found:
        _check(result, len(items), len(prompts))
    return found


def _probed(name: str, scores: Sequence[Score], groups: np.ndarray) -> Probed:
    there = np.array([not isinstance(score, str) for score in scores], dtype=bool)
    values = np.array([score for score in scores if not isinstance(score, str)], dtype=np.float64)
    own = [values[groups[there] == group] for group in np.unique(groups[there])]
    variances = np.array([part.var() for part in own])
    reasons = [score for score in scores if isinstance(score, str)]
    return Probed(
        name,
        float(values.mean()) if len(values) else float("nan"),
        float(np.sqrt(variances.mean())) if len(values) else 0.0,
        float(np.mean([_differ(part) for part in own])) if own else 0.0,
        len(reasons),
        reasons[0] if reasons else "",
    )


def _differ(scores: Float[np.ndarray, " n"]) -> bool:
    return bool(np.ptp(scores) > SAME * max(1.0, float(np.abs(scores).max())))


def _check(found: Probed, items: int, prompts: int) -> None:
    if found.missing == items:
        raise DataError(
            f"The objective {found.name!r} scores none of {items} samples of the base policy: {found.reason}.",
            fix="Give an objective that can read them.",
        )
    if not found.varies:
        raise DataError(
            f"The objective {found.name!r} does not vary: it gives all of the base policy's {items} samples to "
            f"{prompts} prompts the score that the other samples of their prompt have, so nothing can be learned from "
            "it.",
            fix="Leave the objective out, or raise the temperature of the samples.",
        )
