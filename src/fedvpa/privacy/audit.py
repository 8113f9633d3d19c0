"""What an attack proves: a lower bound on ε from guesses about canaries, and how well scores tell two kinds apart.

One training is enough for the bound (Steinke, Nasr, Jagielski: "Privacy Auditing with One (1) Training Run", NeurIPS
2023, arXiv 2305.08846). Each of m canaries is planted or not by a fair coin. An attacker guesses r of the coins and is
right v times. If the training is (ε, δ)-differentially private, then

    P[right ≥ v] ≤ β(v) + 2 m δ · max_{1 ≤ i ≤ v} (β(v − i) − β(v)) / i,    β(v) = P[Binomial(r, e^ε / (1 + e^ε)) ≥ v]

(their theorem 5.2, with the δ of a canary as in their appendix D). An ε for which the right side is below 5% is refuted
with 95% confidence. If all of m guesses are right, the bound is about ln(m/3): m canaries can show no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom, norm

CONFIDENCE = 0.95
"""Of every bound and interval here."""

SHARES = (0.9, 0.25)
"""Which shares of the canaries are guessed, of those that the attacker is surest of. Each bound has half of the allowed
error, so the better one may be taken. Chosen by us: of few canaries no coin of the cohort ever falls, and who sees the
cohorts leaves these out; where noise hides most of them, a quarter shows more."""

MOST = 50.0
"""The largest ε that a bound is sought up to; e⁵⁰ canaries would be needed to show it."""


@dataclass(frozen=True)
class Guesses:
    """What an attacker said of the coins.

    Attributes:
        canaries: m, how many coins there were.
        guessed: r, of how many it said something.
        right: v.
    """

    canaries: int
    guessed: int
    right: int


@dataclass(frozen=True)
class Separation:
    """How well scores tell members from others; 0.5 is chance.

    Attributes:
        auc: The probability that a member has the higher score, ties counted half.
        ci95: Its interval (Hanley and McNeil, Radiology 1982).
        tpr: The share of members found where 1% of the others are taken for members (Carlini et al., S&P 2022).
        members: How many there were.
        others: How many others.
    """

    auc: float
    ci95: tuple[float, float]
    tpr: float
    members: int
    others: int


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """How probable it is at most that an (ε, δ)-private training lets an attacker be right so often."""
    canaries, guessed, right = guesses.canaries, guesses.guessed, guesses.right
    share = float(expit(epsilon))
    beta = float(binom.sf(right - 1, guessed, share))
    if right == 0 or delta == 0:
        return min(1.0, beta)
    each = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guessed, share))  # β(v − i) − β(v), i = 1 … v
    alpha = float((each / np.arange(1, right + 1)).max())
    return min(1.0, beta + 2 * canaries * delta * alpha)


def epsilon_lower(guesses: Guesses, delta: float, confidence: float = CONFIDENCE) -> float:
    """The largest ε that the guesses refute; 0 where they refute none.

    Args:
        guesses: What was guessed, decided without a look at the coins.
        delta: δ of the claim.
        confidence: Of the bound.
    """
    error = 1 - confidence

    def excess(epsilon: float) -> float:
        return p_value(guesses, epsilon, delta) - error

    if guesses.guessed == 0 or excess(0.0) >= 0:
        return 0.0
    if excess(MOST) < 0:
        return MOST
    return float(brentq(excess, 0.0, MOST, xtol=1e-6))


def largest_bound(canaries: int, confidence: float = CONFIDENCE) -> float:
    """The bound if all of m guesses are right: e^ε / (1 + e^ε) = (1 − confidence)^{1/m}; about ln(m/3) at 95%."""
    share = (1 - confidence) ** (1 / canaries)
    return math.log(share / (1 - share))


def guess(log_odds: Float[np.ndarray, " m"], planted: Bool[np.ndarray, " m"], share: float) -> Guesses:
    """Guess the coins that the attacker is surest of, and count.

    Args:
        log_odds: Of each canary, that it is planted, as the attacker sees it.
        planted: The coins.
        share: Of the canaries about which something is said.
    """
    guessed = max(1, round(share * len(log_odds)))
    surest = np.argsort(-np.abs(log_odds), kind="stable")[:guessed]
    return Guesses(len(log_odds), guessed, int(((log_odds > 0) == planted)[surest].sum()))


def best_bound(
    log_odds: Float[np.ndarray, " m"], planted: Bool[np.ndarray, " m"], delta: float, shares: Sequence[float] = SHARES
) -> tuple[float, Guesses]:
    """The highest lower bound on ε over ``shares``, at 95% for all of them together, and its guesses."""
    each = 1 - (1 - CONFIDENCE) / len(shares)
    found = [guess(log_odds, planted, share) for share in shares]
    bounds = [epsilon_lower(one, delta, each) for one in found]
    best = int(np.argmax(bounds))
    return bounds[best], found[best]


def separation(members: Float[np.ndarray, " n"], others: Float[np.ndarray, " n"]) -> Separation | None:
    """How well scores tell members from others; None without both.

    Args:
        members: Scores of members.
        others: Scores of others.
    """
    if not len(members) or not len(others):
        return None
    auc = auc_of(members, others)
    return Separation(
        auc, auc_interval(auc, len(members), len(others)), tpr_at(members, others, 0.01), len(members), len(others)
    )


def auc_of(members: Float[np.ndarray, " n"], others: Float[np.ndarray, " n"]) -> float:
    """The probability that a member has the higher score, ties counted half."""
    ordered = np.sort(others)
    below, upto = np.searchsorted(ordered, members, "left"), np.searchsorted(ordered, members, "right")
    return float((below + upto).sum() / (2 * len(members) * len(others)))


def auc_interval(auc: float, members: int, others: int) -> tuple[float, float]:
    """95% by Hanley and McNeil's variance (Radiology 1982, equation 2), cut at 0 and 1."""
    both, twice = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (members - 1) * (both - auc**2) + (others - 1) * (twice - auc**2)) / (
        members * others
    )
    half = float(norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(max(variance, 0.0))
    return max(0.0, auc - half), min(1.0, auc + half)


def tpr_at(members: Float[np.ndarray, " n"], others: Float[np.ndarray, " n"], fpr: float) -> float:
    """The share of members above the threshold that at most ``fpr`` of the others are above."""
    allowed = math.floor(fpr * len(others) + 1e-9)
    threshold = np.sort(others)[len(others) - 1 - allowed]
    return float((members > threshold).mean())
