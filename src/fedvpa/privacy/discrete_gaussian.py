"""Exact samples of the discrete Gaussian on the integers, many at a time.

N_Z(0, σ²) gives an integer x with probability proportional to exp(−x²/2σ²). The algorithms are 1 to 3 of Canonne,
Kamath and Steinke, "The Discrete Gaussian for Differential Privacy" (NeurIPS 2020, arXiv 2004.00010), for an integer σ:
a discrete Laplace variable of scale σ is accepted with probability exp(−(|x| − σ)²/2σ²). All coins are compared as
integers, so that no probability is rounded. Noise of floating-point numbers has no such guarantee (Mironov, CCS 2012).

A sample takes the longer the farther out it lies, so whoever times the sampler learns of it. Here many are drawn at a
time, and their total is what can be timed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedvpa.privacy.shamir import Random

Integers = NDArray[np.int64]

MOST_DEVIATION = 1 << 24
"""The largest σ: all numerators and denominators then fit into 64 bits, but with a probability of e^−180."""


def discrete_gaussian(deviation: int, size: int, random: Random) -> Integers:
    """Independent samples of N_Z(0, σ²).

    Args:
        deviation: σ, from 1 to ``MOST_DEVIATION``. The standard deviation is σ to within 2e-7 of it, from σ = 1 on.
        size: How many.
        random: Where the randomness comes from: ``os.urandom``, or a generator's bytes.

    Returns:
        Integers, shape [size].

    Raises:
        ValueError: If σ is out of range.
    """
    if not 1 <= deviation <= MOST_DEVIATION:
        raise ValueError(f"a discrete Gaussian of deviation {deviation} cannot be drawn")
    found = np.zeros(size, np.int64)
    missing = np.arange(size)
    while len(missing):
        drawn = _laplace(deviation, len(missing), random)
        accepted = _exponential_coins((np.abs(drawn) - deviation) ** 2, 2 * deviation**2, random)
        found[missing[accepted]] = drawn[accepted]
        missing = missing[~accepted]
    return found


def _laplace(scale: int, size: int, random: Random) -> Integers:
    """Samples with probability proportional to exp(−|x|/scale): algorithm 2."""
    found = np.zeros(size, np.int64)
    missing = np.arange(size)
    while len(missing):
        rest = _below(scale, len(missing), random)
        whole = _successes(len(missing), random)
        negative = np.frombuffer(random(len(missing)), np.uint8) & 1 == 1
        drawn = rest + scale * whole
        accepted = _coins(rest, scale, random) & ~(negative & (drawn == 0))
        found[missing[accepted]] = np.where(negative, -drawn, drawn)[accepted]
        missing = missing[~accepted]
    return found


def _successes(size: int, random: Random) -> Integers:
    """How many coins of probability 1/e come up before the first that does not."""
    found, alive = np.zeros(size, np.int64), np.arange(size)
    while len(alive):
        alive = alive[_coins(np.ones(len(alive), np.int64), 1, random)]
        found[alive] += 1
    return found


def _exponential_coins(numerator: Integers, denominator: int, random: Random) -> NDArray[np.bool_]:
    """Coins of probability exp(−numerator/denominator), of any size: algorithm 1, for exponents above 1."""
    whole, rest = np.divmod(numerator, denominator)
    up, large = _coins(rest, denominator, random), np.flatnonzero(whole)
    up[large] &= _successes(len(large), random) >= whole[large]
    return up


def _coins(numerator: Integers, denominator: int, random: Random) -> NDArray[np.bool_]:
    """Coins of probability exp(−numerator/denominator), at most 1 in the exponent: algorithm 1.

    Coin k of probability exponent/k is thrown until one does not come up; k is odd with the wanted probability.
    """
    counted, alive, k = np.ones(len(numerator), np.int64), np.arange(len(numerator)), 1
    while len(alive):
        alive = alive[_below(k * denominator, len(alive), random) < numerator[alive]]
        counted[alive] += 1
        k += 1
    return counted % 2 == 1


def _below(bound: int, size: int, random: Random) -> Integers:
    """Uniform integers from 0 to below the bound: remainders of 64 bits, without those that would favour some."""
    found = np.frombuffer(random(8 * size), np.uint64)
    largest = np.uint64(2**64 - 1 - 2**64 % bound)
    left_out = np.flatnonzero(found > largest)
    found = found - found // np.uint64(bound) * np.uint64(bound)
    if len(left_out):
        found[left_out] = _below(bound, len(left_out), random).view(np.uint64)
    return found.view(np.int64)
