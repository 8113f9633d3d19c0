"""How sure a mean over answers is, where answers share what they are about, who gives them, or the trained model.

An answer is one (seed, person, item): in the run of a seed, a person (a client, or the user whose z steers a policy)
meets an item (a test pair, or a prompt). Seeds deal the same items anew, so answers of different seeds are not
independent; nor are those of one person. The two cross, so neither can be resampled inside the other. The variance of
the mean is the multiway one of Cameron, Gelbach and Miller ("Robust Inference with Multiway Clustering", Journal of
Business & Economic Statistics 29, 2011): with V_x the variance as if the sums over each x were independent,

    of these trained models:  V = V_item + V_person - V_(item and person)
    of the method:            V = V_seed + S/(S - 1) times what answers of different seeds share in items (and persons)

The first holds the trained models fixed and speaks of other people and other items. The second also speaks of other
training seeds; it does not exist with a single seed.

Each V_x is what resampling the x with replacement gives, n - 1 of n of them (Rao and Wu, JASA 83, 1988), in closed
form. Small numbers of x are met by Student's t, with degrees of freedom by Satterthwaite (Biometrics Bulletin 2, 1946).
Differences of estimated variances can fall below zero, and below what a single level gives; they are never taken below
that, which can only make an interval longer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import stdtrit

Values = NDArray[np.float64]
Codes = NDArray[np.int64]

DENSE = 8
"""Codes whose range is at most so many times their number are counted instead of sorted. Chosen by us."""

FEWEST_IN_STRATUM = 2
"""A stratum with a single person says nothing about how people differ in it."""


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """Which answers share what, and what each counts.

    Attributes:
        weights: [n] sum to 1.
        seeds: [n] whose run each answer is of, any whole numbers.
        people: [n] who answers. The same number in several seeds is the same person.
        items: [n] what is answered. The same number in several seeds is the same item.
        groups: [n] strata whose shares are fixed by whoever dealt the clients; all equal where people are drawn.
    """

    weights: Values
    seeds: Codes
    people: Codes
    items: Codes
    groups: Codes


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """The covariance of one or several means.

    Attributes:
        covariance: [k, k]
        degrees: Of freedom, of the variance in the direction that was asked for.
    """

    covariance: Values
    degrees: float

    @property
    def variance(self) -> float:
        """Of the first mean; 0 where differences of estimated variances leave nothing else."""
        return max(0.0, float(self.covariance[0, 0]))

    def along(self, direction: Values) -> float:
        """The variance of a weighted sum of the means."""
        return max(0.0, float(direction @ self.covariance @ direction))


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """The covariance that sums over one kind of cluster give, and its degrees of freedom."""

    covariance: Values
    degrees: float


def spread_of_models(design: Design, values: Values, direction: Values | None = None) -> Spread | None:
    """How sure weighted means over answers are, for other people and other items under these trained models.

    Args:
        design: Of the answers.
        values: [n] or [n, k]: one or several numbers for each answer.
        direction: [k] the weighted sum of the means that is of interest; it decides where differences of variances
            fall below zero. The first mean by default.

    Returns:
        None where the single person of some seed, or a single item, cannot say anything about others.
    """
    residuals = _within(design, _table(values))
    people = _level(residuals, design.people, _strata(design))
    items = _level(residuals, design.items, _strata(design))
    if people is None or items is None or _fewest_people(design, design.seeds) < FEWEST_IN_STRATUM:
        return None
    both = _level(residuals, _crossed(design.items, design.people), _strata(design))
    shared = items.covariance - (items.covariance if both is None else both.covariance)
    along = _first(residuals) if direction is None else direction
    candidates = [
        (
            people.covariance + shared,
            satterthwaite([(people.covariance, people.degrees), (shared, items.degrees)], along),
        ),
        (people.covariance, people.degrees),
        (items.covariance, items.degrees),
    ]
    return _widest([Spread(covariance, degrees) for covariance, degrees in candidates], along)


def spread_of_method(design: Design, values: Values, direction: Values | None = None) -> Spread | None:
    """The same for other training seeds too: what another run of the method, on new people and items, would give.

    Args:
        design: Of the answers.
        values: [n] or [n, k]
        direction: As of :func:`spread_of_models`.

    Returns:
        None with a single seed.
    """
    table = _table(values)
    means = _seed_means(design, table)
    if len(means) < 2:
        return None
    along = _first(table) if direction is None else direction
    deviations = (means - means.mean(axis=0)) / len(means)
    seeds = len(means) / (len(means) - 1) * deviations.T @ deviations
    shared, degrees = _shared_by_seeds(design, table)
    # Deviations of seeds from their mean have lost what all seeds share, of which the products hold (S - 1)/S.
    shared = shared * len(means) / (len(means) - 1)
    if along @ shared @ along <= 0:
        shared = np.zeros_like(shared)
    whole = Spread(seeds + shared, satterthwaite([(seeds, len(means) - 1.0), (shared, degrees)], along))
    fixed = spread_of_models(design, values, along)
    return _widest([whole] if fixed is None else [whole, fixed], along)


def variance_if_clients_shared_nothing(design: Design, values: Values) -> float | None:
    """The variance of the mean if no two people of different seeds, and no two items, were the same.

    None where a single person says nothing about others.
    """
    found = _level(_within(design, _table(values)), _crossed(design.people, design.seeds), _strata(design))
    return None if found is None else float(found.covariance[0, 0])


def numbered(names: Iterable[tuple[object, ...]]) -> Codes:
    """A number for each name, by first occurrence: codes of a :class:`Design`."""
    known: dict[tuple[object, ...], int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)


def _shared_by_seeds(design: Design, table: Values) -> tuple[Values, float]:
    """The covariance between answers of different seeds that share an item or a person."""
    residuals, strata = _within(design, table), _strata(design)
    total, degrees = np.zeros((table.shape[1],) * 2), 1.0
    both = _crossed(design.items, design.people)
    for codes, sign in ((design.items, 1.0), (design.people, 1.0), (both, -1.0)):
        over, inside = _level(residuals, codes, strata), _level(residuals, _crossed(codes, design.seeds), strata)
        if over is not None and inside is not None:
            total = total + sign * (over.covariance - inside.covariance)
            degrees = max(degrees, over.degrees)
    return total, degrees


def _table(values: Values) -> Values:
    return values[:, None] if values.ndim == 1 else values


def _first(table: Values) -> Values:
    return np.eye(table.shape[1])[0]


def _crossed(first: Codes, second: Codes) -> Codes:
    """A number for each pair of numbers."""
    one, other = _compact(first), _compact(second)
    return one * (int(other.max()) + 1) + other


def _compact(codes: Codes) -> Codes:
    """The same partition, numbered from 0 without gaps."""
    low, high = int(codes.min()), int(codes.max())
    if high - low > DENSE * len(codes):
        return np.unique(codes, return_inverse=True)[1].astype(np.int64)
    # Counting is several times faster than sorting, and most codes have few gaps.
    present = np.bincount(codes - low) > 0
    return (np.cumsum(present) - 1)[codes - low]


def _strata(design: Design) -> Codes:
    """Seed by group, or by seed alone where a group of some seed has a single person."""
    fine = _crossed(design.seeds, design.groups)
    return fine if _fewest_people(design, fine) >= FEWEST_IN_STRATUM else _compact(design.seeds)


def _fewest_people(design: Design, strata: Codes) -> int:
    """How many people the smallest stratum has."""
    firsts = np.unique(_crossed(strata, design.people), return_index=True)[1]
    return int(np.bincount(_compact(strata)[firsts]).min())


def _within(design: Design, table: Values) -> Values:
    """[n, k] weighted deviations from the mean of the own stratum."""
    strata = _compact(_strata(design))
    mass = np.bincount(strata, design.weights)
    means = np.stack([np.bincount(strata, design.weights * column) / mass for column in table.T], axis=1)
    return design.weights[:, None] * (table - means[strata])


def _seed_means(design: Design, table: Values) -> Values:
    """[seeds, k] the mean of each seed."""
    seeds = _compact(design.seeds)
    mass = np.bincount(seeds, design.weights)
    return np.stack([np.bincount(seeds, design.weights * column) / mass for column in table.T], axis=1)


def _level(residuals: Values, codes: Codes, strata: Codes) -> _Level | None:
    """The covariance of sums over clusters, as if clusters were independent; None where nothing can be said.

    Clusters that meet no stratum in common are counted apart: n of them, of whose deviations n - 1 are free.
    """
    clusters, strata = _compact(codes), _compact(strata)
    count = int(clusters.max()) + 1
    sums: Values = np.stack([np.bincount(clusters, column, minlength=count) for column in residuals.T], axis=1)
    apart = _apart(clusters, strata)
    sizes = np.bincount(apart)
    if (sizes - 1).sum() < 1:
        return None
    factors = np.where(sizes > 1, sizes / np.maximum(sizes - 1, 1), 0.0)
    covariance: Values = (factors[apart][:, None] * sums).T @ sums
    return _Level(covariance, float((sizes - 1).sum()))


def _apart(clusters: Codes, strata: Codes) -> Codes:
    """[clusters] the number of the set of strata that each cluster is connected with."""
    count, others = int(clusters.max()) + 1, int(strata.max()) + 1
    links = coo_array((np.ones(len(clusters)), (clusters, count + strata)), shape=(count + others,) * 2)
    found: Codes = connected_components(links, directed=False)[1][:count].astype(np.int64)
    return found


def satterthwaite(parts: list[tuple[Values, float]], along: Values) -> float:
    """Degrees of freedom of a sum of independent variances: V² / Σ V_i²/df_i, no fewer than the smallest of them."""
    found = [(float(along @ part @ along), degrees) for part, degrees in parts]
    noise = sum(value**2 / degrees for value, degrees in found)
    least = min(degrees for _, degrees in found)
    return max(least, sum(value for value, _ in found) ** 2 / noise) if noise > 0 else least


def _widest(spreads: list[Spread], along: Values) -> Spread:
    """The one that gives the longest interval at 95%."""
    return max(spreads, key=lambda spread: spread.along(along) ** 0.5 * float(stdtrit(spread.degrees, 0.975)))
