"""How far noise that nodes add in integers is from the Gaussian noise that the accountant counts.

The accountant knows one thing, x + N(0, s²) with real numbers. What is released is x, an integer, + a sum of discrete
Gaussians. There are two steps between them, and both are small by the sum of a Gaussian over the integers moved by c,

    ρ(c) = Σ_{y ∈ Z} exp(−(y − c)²/2t²) = t √(2π) (1 + η),  |η| ≤ θ(t²) = 2 Σ_{k ≥ 1} exp(−2π²t²k²)        (Poisson)

so that no value of c makes it more than (1 + θ)/(1 − θ) times another one:

- **A sum of discrete Gaussians is nearly one.** The probability of z under N_Z(0, a) + N_Z(0, b) is that of
  N_Z(0, a + b) times a ρ of t² = ab/(a + b), up to a constant. So the two differ by a factor of (1 + θ)/(1 − θ) at
  most, at every z. For n equal ones t² = σ²k/(k + 1), k = 1 … n − 1 (Kairouz, Liu, Steinke, ICML 2021, arXiv
  2102.06387, who bound the same factor by exp(10 Σ_k exp(−2π²σ²k/(k + 1)))).
- **A discrete Gaussian is nearly made of a real one.** To y = x + N(0, s² − r²) add what brings it to an integer z with
  probability ∝ exp(−(z − y)²/2r²). The result is x + N_Z(0, s²) but for a factor of (1 + θ(r²))/(1 − θ(r²)) (Peikert,
  CRYPTO 2010, theorem 3.1), and what is made of y alone cannot cost more than y does. This also holds with sampling.

``KERNEL`` is r. What it takes from the variance is added to the noise (:func:`counted`), and the factors are added to
ε (:func:`excess`). The first step also holds where the server adds real Gaussian noise of variance b to the sum: the
whole then has the density of N(0, a + b) but for the factor of t² = ab/(a + b), however many nodes there were.
"""

from __future__ import annotations

import math
from collections.abc import Callable

KERNEL = 4
"""r, in steps. Chosen by us: θ(r²) is then 5e-137."""

FEWEST_STEPS = 64
"""The least standard deviation of one node's noise, in steps: with fewer the clip is lost to rounding. Chosen by us."""

MOST_VALUES = 2**32
"""No release has more values than this: so many would be 16 GiB of one client's."""


def counted(deviation: int) -> float:
    """The deviation s of the real Gaussian noise that integer noise of a deviation is at least as good as, in steps.

    Args:
        deviation: B, of the sum of the integer noise that is counted on; above ``KERNEL``.
    """
    return math.sqrt(deviation**2 - KERNEL**2)


def excess(deviation: int, nodes: int, values: int = MOST_VALUES) -> float:
    """The logarithm of the factor by which a release is farther from the accountant's than nothing.

    Args:
        deviation: σ of one node's noise, in steps.
        nodes: How many nodes' noise is counted on.
        values: How many values a release has.

    Returns:
        λ: every probability of a release is within e^±λ of that of a release that costs no more than real Gaussian
        noise of deviation ``counted``. So ε at δ is at most ε at δ e^−λ of the latter, plus 2 λ.
    """
    return values * (ratio(KERNEL**2) + (nodes - 1) * ratio(deviation**2 / 2))  # k/(k + 1) ≥ ½


def charged(epsilon: Callable[[float], float], delta: float, excess_: float) -> float:
    """ε at δ of releases whose probabilities are within e^±λ of those of releases that an accountant knows.

    Args:
        epsilon: δ → ε of the latter.
        delta: δ.
        excess_: λ, of all releases together.
    """
    return epsilon(delta * math.exp(-excess_)) + 2 * excess_


def ratio(variance: float) -> float:
    """ln((1 + θ)/(1 − θ)) of t² = ``variance``; infinity where θ is 1 or more."""
    first = math.exp(-2 * math.pi**2 * variance)
    theta = 2 * first / (1 - first)  # k² ≥ k
    return math.log1p(theta) - math.log1p(-theta) if theta < 1 else math.inf
