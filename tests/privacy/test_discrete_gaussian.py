"""Discrete Gaussian noise against its probabilities, and how far a sum of it is from Gaussian noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedvpa.privacy.discrete_gaussian import _below, _coins, _exponential_coins, _laplace, discrete_gaussian
from fedvpa.privacy.discreteness import KERNEL, counted, excess, ratio

FALSE_ALARM = 1e-6
"""How often a χ² test here fails on a sampler that is right; the seeds are fixed, so always or never."""


def random(seed: int):
    return np.random.default_rng(seed).bytes


def gaussian(variance: float, most: int = 60) -> np.ndarray:
    """The probabilities of N_Z(0, variance) at −most … most."""
    weights = np.exp(-(np.arange(-most, most + 1) ** 2) / (2 * variance))
    return weights / weights.sum()


def fits(found: np.ndarray, probabilities: np.ndarray, first: int) -> None:
    """χ² of counts at ``first``, first + 1, …, with rare values put together."""
    expected = probabilities * len(found)
    common = expected > 5
    counted = np.bincount(found - first, minlength=len(expected))[: len(expected)]
    counts, wanted = counted[common], expected[common]
    rest = len(found) - wanted.sum()
    if rest > 5:
        counts, wanted = np.append(counts, len(found) - counts.sum()), np.append(wanted, rest)
    else:
        wanted = wanted * counts.sum() / wanted.sum()
    assert stats.chisquare(counts, wanted).pvalue > FALSE_ALARM


@pytest.mark.reference
@pytest.mark.parametrize("deviation", [1, 2, 7])
def test_noise_has_the_probabilities_of_a_discrete_gaussian(deviation: int):
    fits(discrete_gaussian(deviation, 40_000, random(deviation)), gaussian(deviation**2), -60)


@pytest.mark.reference
def test_large_noise_has_the_moments_of_a_gaussian():
    """Mean, variance and kurtosis of 30,000 within 5 standard errors, and P(|x| ≤ σ)."""
    deviation, size = 1 << 22, 30_000
    found = discrete_gaussian(deviation, size, random(5)) / deviation
    assert abs(found.mean()) < 5 / math.sqrt(size)
    assert abs((found**2).mean() - 1) < 5 * math.sqrt(2 / size)
    assert abs((found**4).mean() - 3) < 5 * math.sqrt(96 / size)
    inside = stats.norm.cdf(1) - stats.norm.cdf(-1)
    assert abs((np.abs(found) <= 1).mean() - inside) < 5 * math.sqrt(inside * (1 - inside) / size)


@pytest.mark.reference
def test_its_coins_have_their_probabilities():
    size = 40_000
    for numerator, denominator in ((0, 3), (1, 3), (1, 1)):
        up = _coins(np.full(size, numerator), denominator, random(numerator)).mean()
        wanted = math.exp(-numerator / denominator)
        assert abs(up - wanted) <= 5 * math.sqrt(wanted * (1 - wanted) / size)
    up = _exponential_coins(np.full(size, 7), 3, random(1)).mean()
    assert abs(up - math.exp(-7 / 3)) < 5 * math.sqrt(math.exp(-7 / 3) / size)
    scale, at = 3, np.arange(-60, 61)
    weights = np.exp(-np.abs(at) / scale)
    fits(_laplace(scale, size, random(2)), weights / weights.sum(), -60)


@pytest.mark.unit
def test_uniform_numbers_favour_no_remainder():
    """Of 2/3 of all words the remainders are not uniform: 2^64 is one and a half times the bound."""
    bound = 2**64 // 3 * 2
    words = [2**64 - 1, 5, bound, 7]  # the first and third are left out
    given = iter(np.array(words, np.uint64).tobytes()[at : at + 8] for at in range(0, 32, 8))
    assert _below(bound, 1, lambda _: next(given))[0] == 5
    assert _below(bound, 1, lambda _: next(given))[0] == 7
    assert (np.bincount(_below(3, 30_000, random(0))) > 9_500).all()


@pytest.mark.unit
def test_what_cannot_be_drawn_is_an_error():
    for deviation in (0, 1 << 25):
        with pytest.raises(ValueError, match="cannot be drawn"):
            discrete_gaussian(deviation, 1, random(0))


@pytest.mark.reference
@pytest.mark.parametrize("variance", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("nodes", [2, 5])
def test_a_sum_differs_from_one_discrete_gaussian_by_no_more_than_the_bound(variance: float, nodes: int):
    """Exactly, by convolution, where the bound is not far below rounding; and the published bound is no smaller."""
    one = total = gaussian(variance)
    for _ in range(nodes - 1):
        total = np.convolve(total, one)
    middle = len(total) // 2
    near = slice(middle - 6, middle + 7)
    found = np.abs(np.log(total[near] / gaussian(nodes * variance, middle)[near])).max()
    bound = sum(ratio(variance * k / (k + 1)) for k in range(1, nodes))
    assert found <= bound
    published = 10 * sum(math.exp(-2 * math.pi**2 * variance * k / (k + 1)) for k in range(1, nodes))
    assert bound <= published or variance < 0.5


@pytest.mark.reference
@pytest.mark.parametrize("variance", [0.3, 0.7, 1.2])
def test_the_factor_is_that_of_a_gaussian_over_moved_integers(variance: float):
    moved = [np.exp(-((np.arange(-40, 41) - c) ** 2) / (2 * variance)).sum() for c in (0.0, 0.5)]
    assert math.log(moved[0] / moved[1]) == pytest.approx(ratio(variance), rel=0.02)
    assert math.log(moved[0] / moved[1]) <= ratio(variance)


@pytest.mark.reference
@pytest.mark.parametrize("kernel", [0.4, 0.6])
def test_a_discrete_gaussian_is_made_of_a_real_one_but_for_the_bound(kernel: float):
    """N(0, s² − r²) and then a random integer near it: by quadrature."""
    variance, at = 4.0, np.arange(-5, 6)
    y = np.linspace(-25, 25, 20_001)
    density = stats.norm.pdf(y, scale=math.sqrt(variance - kernel**2))
    every = np.exp(-((np.arange(-40, 41)[:, None] - y) ** 2) / (2 * kernel**2)).sum(0)
    made = [np.trapezoid(density * np.exp(-((z - y) ** 2) / (2 * kernel**2)) / every, y) for z in at]
    found = np.abs(np.log(made / gaussian(variance)[at + 60])).max()
    assert 0 < found <= ratio(kernel**2)


@pytest.mark.unit
def test_the_difference_is_below_all_rounding_at_the_steps_that_are_used():
    assert counted(64) == math.sqrt(64**2 - KERNEL**2)
    assert 0 < excess(64, 1000) < 1e-120
    assert excess(64, 1000) == pytest.approx(2**32 * 4 * math.exp(-2 * math.pi**2 * KERNEL**2), rel=1e-9)
    assert excess(1, 3) > 1, "noise of a single step is no Gaussian"
    assert ratio(1e-3) == math.inf
