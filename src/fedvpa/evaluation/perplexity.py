"""What alignment cost: perplexity of plain text under a policy beside the base policy's, on the same tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from fedvpa.core.short_repr import short_repr
from fedvpa.evaluation.student import Interval, t_interval
from fedvpa.evaluation.summaries import JsonResult
from fedvpa.evaluation.variance import Spread

TAIL = 0.025


@dataclass(frozen=True, slots=True, repr=False)
class TextScores:
    """Log-probabilities of texts, summed over their tokens.

    Attributes:
        log_probs: [texts], in nats.
        tokens: How many tokens of each text are scored.
    """

    log_probs: Float[np.ndarray, " texts"]
    tokens: Int[np.ndarray, " texts"]

    __repr__ = short_repr

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-probability per token, over all tokens."""
        return math.exp(-float(self.log_probs.sum()) / int(self.tokens.sum()))


@dataclass(frozen=True, slots=True)
class LanguageRow(JsonResult):
    """Texts under one policy at one z.

    Attributes:
        policy: The policy's name: empty for one for all, else that of its group.
        preference: Which z: a preference, a prototype's number, or ``half-way``; None for a policy without z.
        z: The latent; None likewise.
        perplexity: Of the texts under the policy.
        ratio: Perplexity under the policy over that under the base policy; 1 where alignment cost nothing.
        ratio_ci95: Its interval, over texts; None for a single text.
    """

    policy: str
    preference: str | None
    z: tuple[float, ...] | None
    perplexity: float
    ratio: float
    ratio_ci95: Interval | None


def perplexity_ratio(policy: TextScores, base: TextScores) -> tuple[float, Interval | None]:
    """Perplexity under the policy over that under the base policy, and its 95% interval over texts.

    The logarithm of the ratio is the sum of all differences of log-probabilities over the number of tokens: a ratio of
    sums over texts, whose variance is that of its residuals (Cochran, Sampling Techniques, 1977, section 6.3). Tokens
    of one text are not independent, so texts are the units.

    Args:
        policy: The texts under the policy.
        base: The same tokens under the base policy.
    """
    lost, tokens = base.log_probs - policy.log_probs, policy.tokens
    mean, count = float(lost.sum() / tokens.sum()), len(lost)
    if count < 2:
        return math.exp(mean), None
    variance = float(((lost - mean * tokens) ** 2).sum()) * count / (count - 1) / float(tokens.sum()) ** 2
    ends = t_interval(mean, Spread(np.array([[variance]]), count - 1), None, TAIL)
    return math.exp(mean), None if ends is None else (math.exp(ends[0]), math.exp(ends[1]))


def language_lines(rows: Sequence[LanguageRow], base: float, texts: int, tokens: int) -> list[str]:
    """The table for people."""
    lines = [f"perplexity of {texts:,} texts, {tokens:,} tokens; base policy {base:.2f}"]
    for row in rows:
        name = ", ".join(part for part in (row.policy, row.preference) if part) or "policy"
        ends = "" if row.ratio_ci95 is None else f" [{row.ratio_ci95[0]:.3f}, {row.ratio_ci95[1]:.3f}]"
        lines.append(f"  {name}: {row.perplexity:.2f}, {row.ratio:.3f}{ends} times the base policy's")
    return lines
