"""The variance of a mean over crossed answers, against closed forms."""

import itertools

import numpy as np
import pytest
from scipy import stats

from fedvpa.evaluation.student import t_interval
from fedvpa.evaluation.variance import (
    Design,
    spread_of_method,
    spread_of_models,
    variance_if_clients_shared_nothing,
)

pytestmark = pytest.mark.reference


def design(seeds, people, items, groups=None):
    count = len(seeds)
    columns = (np.asarray(column, dtype=np.int64) for column in (seeds, people, items))
    strata = np.zeros(count, dtype=np.int64) if groups is None else np.asarray(groups, dtype=np.int64)
    return Design(np.full(count, 1 / count), *columns, strata)


def grid(*sizes):
    """Every combination once, one axis after the other."""
    return np.array(list(itertools.product(*(range(size) for size in sizes)))).T


def test_one_answer_per_client_is_the_mean_of_independent_numbers():
    values = np.random.default_rng(0).normal(size=13)
    number = np.arange(13)
    found = spread_of_models(design(np.zeros(13), number, number), values)
    assert found.variance == pytest.approx(values.var(ddof=1) / 13)
    assert found.degrees == 12
    assert spread_of_method(design(np.zeros(13), number, number), values) is None


def test_pairs_of_one_client_are_not_independent():
    people, _ = grid(11, 7)
    values = np.repeat(np.random.default_rng(1).normal(size=11), 7)
    found = spread_of_models(design(np.zeros(77), people, np.arange(77)), values)
    assert found.variance == pytest.approx(values[::7].var(ddof=1) / 11)
    assert found.degrees == pytest.approx(10, rel=0.02)


def test_two_crossed_levels_add_up_to_the_multiway_variance():
    """V = V_items + V_people - V_answers, where everybody answers everything."""
    rng = np.random.default_rng(9)
    values = rng.normal(0, 0.4, (13, 1)) + rng.normal(0, 0.3, (1, 17)) + rng.normal(0, 1.2, (13, 17))
    people, items = grid(13, 17)
    parts = values.mean(axis=0).var(ddof=1) / 17, values.mean(axis=1).var(ddof=1) / 13, values.var(ddof=1) / 221
    assert parts[2] > 0.1 * (parts[0] + parts[1])  # else the last term could be left out unseen
    found = spread_of_models(design(np.zeros(221), people, items), values.ravel())
    assert found.variance == pytest.approx(parts[0] + parts[1] - parts[2])


def test_the_same_items_in_every_seed_are_one_sample_of_items():
    """Copies of one seed bring nothing new about items; the same numbers on other items do."""
    values = np.random.default_rng(2).normal(size=53)
    number = np.tile(np.arange(53), 4)
    seeds, apart = np.repeat(np.arange(4), 53), np.arange(212)
    again = spread_of_models(design(seeds, apart, number), np.tile(values, 4))
    other = spread_of_models(design(seeds, apart, apart), np.tile(values, 4))
    once = values.var(ddof=1) / 53
    assert again.variance == pytest.approx(once)
    assert other.variance == pytest.approx(once / 4)


def test_the_same_people_in_every_seed_are_one_sample_of_people():
    values = np.random.default_rng(3).normal(size=19)
    people, seeds = np.tile(np.arange(19), 3), np.repeat(np.arange(3), 19)
    again = spread_of_models(design(seeds, people, np.arange(57)), np.tile(values, 3))
    assert again.variance == pytest.approx(values.var(ddof=1) / 19)
    assert again.degrees == pytest.approx(18)
    alone = variance_if_clients_shared_nothing(design(seeds, people, np.arange(57)), np.tile(values, 3))
    assert alone == pytest.approx(values.var(ddof=1) / 57)


def test_what_lies_between_seeds_is_in_the_method_and_not_in_these_models():
    rng = np.random.default_rng(4)
    numbers, shift = rng.normal(size=(5, 23)), np.array([0.0, 3.0, -1.0, 2.0, 7.0])
    seeds, _ = grid(5, 23)
    whole = design(seeds, np.arange(115), np.arange(115))
    still, moved = numbers.ravel(), (numbers + shift[:, None]).ravel()
    assert spread_of_models(whole, moved).variance == pytest.approx(spread_of_models(whole, still).variance)
    found = spread_of_method(whole, moved)
    assert found.variance == pytest.approx((numbers.mean(axis=1) + shift).var(ddof=1) / 5)
    assert found.degrees == pytest.approx(4)


def test_items_that_seeds_share_enter_the_methods_variance_once():
    """Seeds that differ by luck alone: their means agree, and still the items are few."""
    values = np.random.default_rng(5).normal(size=41)
    seeds, items = grid(6, 41)
    found = spread_of_method(design(seeds, np.arange(246), items), np.tile(values, 6))
    assert found.variance == pytest.approx(values.var(ddof=1) / 41)
    shift = np.array([0.0, 0.4, -0.3, 0.9, 0.1, -0.5])
    moved = spread_of_method(design(seeds, np.arange(246), items), (values + shift[:, None]).ravel())
    assert moved.variance == pytest.approx(values.var(ddof=1) / 41 + shift.var(ddof=1) / 6)


def test_groups_that_were_dealt_are_strata():
    """Two groups with fixed shares: what lies between them is no luck of the draw."""
    values = np.array([0.2, 0.4, 0.3, 0.9, 0.8, 0.7])
    groups = np.repeat([0, 1], 3)
    number = np.arange(6)
    found = spread_of_models(design(np.zeros(6), number, number, groups), values)
    assert found.variance == pytest.approx((values[:3].var(ddof=1) + values[3:].var(ddof=1)) / 12)
    assert found.degrees == 4
    # A group with a single person says nothing about its people: then seeds are the strata.
    found = spread_of_models(design(np.zeros(6), number, number, [0, 0, 0, 0, 0, 1]), values)
    assert found.variance == pytest.approx(values.var(ddof=1) / 6)


def test_a_single_person_or_item_says_nothing():
    assert spread_of_models(design([0, 0], [4, 4], [1, 2]), np.array([0.0, 1.0])) is None
    assert spread_of_models(design([0, 0], [4, 5], [1, 1]), np.array([0.0, 1.0])) is None


def test_answers_in_which_neither_people_nor_items_differ_have_no_variance_below_zero():
    crossed = design([0] * 4, [0, 0, 1, 1], [0, 1, 0, 1])
    spread = spread_of_models(crossed, np.array([1.0, -1.0, -1.0, 1.0]))
    assert spread.variance == 0.0
    assert t_interval(0.0, spread, None, 0.025) == (0.0, 0.0)


def test_several_means_have_their_covariance():
    rng = np.random.default_rng(6)
    table = rng.normal(size=(31, 2)) @ np.array([[1.0, 0.7], [0.0, 0.4]])
    number = np.arange(31)
    found = spread_of_models(design(np.zeros(31), number, number), table, np.array([1.0, -1.0]))
    assert found.covariance == pytest.approx(np.cov(table.T) / 31)
    assert found.along(np.array([1.0, -1.0])) == pytest.approx((table[:, 0] - table[:, 1]).var(ddof=1) / 31)


def test_degrees_of_freedom_are_satterthwaites():
    """Few people and many items of about the same weight: between the two."""
    rng = np.random.default_rng(7)
    people, items = grid(5, 199)
    values = rng.normal(0, 1, 5)[people] + rng.normal(0, 6, 199)[items]
    found = spread_of_models(design(np.zeros(995), people, items), values)
    parts = [np.array([values[people == one].mean() for one in range(5)]).var(ddof=1) / 5]
    parts.append(found.variance - parts[0])
    assert found.degrees == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / 198))
    assert 4 < found.degrees < 198


def test_codes_may_be_any_whole_numbers():
    rng = np.random.default_rng(8)
    values = rng.normal(size=60)
    seeds, people, items = rng.integers(0, 3, 60), rng.integers(0, 9, 60), rng.integers(0, 23, 60)
    small = design(seeds, people, items)
    large = design(seeds - 7, people * 2**40, (items + 1) * 2**55)
    for spread in (spread_of_models, spread_of_method):
        one, other = spread(small, values), spread(large, values)
        assert (one.variance, one.degrees) == pytest.approx((other.variance, other.degrees))


def test_the_t_quantile_of_two_numbers_is_the_wide_one():
    found = spread_of_models(design([0, 0], [0, 1], [0, 1]), np.array([0.2, 0.6]))
    assert found.degrees == 1
    assert stats.t.ppf(0.975, found.degrees) == pytest.approx(12.7062, abs=1e-4)
