"""Hypervolumes in closed form, their intervals, and paths of preferences."""

import itertools

import numpy as np
import pytest

from fedvpa.core.errors import DataError
from fedvpa.evaluation.fronts import compared_volumes, summarise_front
from fedvpa.evaluation.hypervolume import Front, hypervolume, hypervolume_difference, hypervolume_of
from fedvpa.evaluation.intervals import Bootstrap
from fedvpa.evaluation.reward_curves import roughness

pytestmark = pytest.mark.unit

FAST = Bootstrap(resamples=2000)
PREFERENCES = ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0))


def union_of_boxes(points):
    """Inclusion and exclusion: the slow twin."""
    boxes = np.maximum(points, 0)
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for chosen in itertools.combinations(boxes, size):
            total -= (-1) ** size * np.prod(np.min(chosen, axis=0))
    return total


def test_closed_forms():
    assert hypervolume(np.array([[2.0, 3.0]])) == 6
    assert hypervolume(np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])) == 6  # a staircase
    assert hypervolume(np.array([[1.0, 3.0], [2.0, 2.0], [1.5, 1.5], [2.0, 2.0]])) == 5  # dominated and equal points
    assert hypervolume(np.array([[-1.0, 7.0], [2.0, -0.1]])) == 0  # nobody is above the base in both
    assert hypervolume(np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.5]])) == 1.5
    assert hypervolume(np.array([[4.0], [3.0]])) == 4


@pytest.mark.parametrize("objectives", [2, 3, 5])
def test_the_sweep_is_the_union_of_boxes_for_any_leading_axes(objectives):
    points = np.random.default_rng(objectives).normal(0.4, 1.0, (2, 3, 7, objectives))
    expected = [[union_of_boxes(own) for own in row] for row in points]
    assert hypervolume(points) == pytest.approx(np.array(expected), abs=1e-12)
    assert hypervolume(points[..., ::-1, ::-1]) == pytest.approx(np.array(expected), abs=1e-12)


def drawn(seed, *, seeds=3, policies=3, prompts=41, noise=0.5, drift=0.0):
    """Policies at (1 + w, 2 − w) above a base, with noise of prompts that all runs share, and a drift of each run."""
    rng = np.random.default_rng(seed)
    base = np.broadcast_to(rng.normal(size=(prompts, 2)), (seeds, prompts, 2)).copy()
    weights = np.linspace(0, 1, policies)
    gains = np.stack([1 + weights, 2 - weights], axis=1)[None, :, None]
    shared = rng.normal(0, noise, (1, 1, prompts, 1))
    return Front(base[:, None] + gains + shared + drift * rng.normal(size=(seeds, 1, 1, 1)), base)


def test_without_noise_the_interval_is_the_point():
    found = hypervolume_of(drawn(0, noise=0.0), FAST)
    assert found.value == pytest.approx(hypervolume(np.array([[1.0, 2.0], [1.5, 1.5], [2.0, 1.0]])))
    assert found.interval == pytest.approx((found.value, found.value))
    assert found.method == pytest.approx((found.value, found.value))


def test_of_one_policy_and_objective_it_is_the_interval_of_a_mean():
    front = drawn(1, seeds=1, policies=1, prompts=97)
    one = Front(front.rewards[..., :1] + 9.0, front.base[..., :1])  # far above the base: the volume is the mean
    gains = (one.rewards[0, 0] - one.base[0]).ravel()
    half = gains.std(ddof=1) / np.sqrt(97) * 1.985
    found = hypervolume_of(one, FAST)
    assert found.value == pytest.approx(gains.mean())
    assert found.interval == pytest.approx((gains.mean() - half, gains.mean() + half), abs=0.08 * half)
    assert found.method is None


def test_intervals_hold_the_truth_as_often_as_they_say():
    truth = float(hypervolume(np.array([[1.0, 2.0], [1.5, 1.5], [2.0, 1.0]])))
    inside = []
    for seed in range(120):
        low, high = hypervolume_of(drawn(seed, seeds=1), FAST).interval
        inside.append(low <= truth <= high)
    assert 0.9 <= np.mean(inside) <= 1


def test_runs_that_differ_widen_the_methods_interval_alone():
    steady, moved = hypervolume_of(drawn(4), FAST), hypervolume_of(drawn(4, drift=0.5), FAST)
    width = [high - low for low, high in (steady.interval, steady.method, moved.interval, moved.method)]
    assert width[1] == pytest.approx(width[0], rel=0.1)
    assert width[3] > 2 * width[2]


def test_what_prompts_share_cancels_in_a_difference():
    front = drawn(5)
    better = Front(front.rewards + 0.2, front.base)
    gap = hypervolume_difference(better, front, FAST)
    whole = hypervolume_of(front, FAST)
    assert gap.value == pytest.approx(hypervolume_of(better, FAST).value - whole.value)
    assert gap.interval[0] > 0
    assert gap.interval[1] - gap.interval[0] < 0.3 * (whole.interval[1] - whole.interval[0])
    assert hypervolume_difference(front, front, FAST).interval == (0, 0)
    assert list(compared_volumes({"firm": better, "scalar": front}, "firm", FAST)) == ["scalar"]
    with pytest.raises(DataError, match="different answers of the base policy"):
        hypervolume_difference(front, Front(front.rewards, front.base + 1), FAST)


def test_rewards_that_follow_the_preference_are_monotone_and_others_are_not():
    front = drawn(6)
    found = summarise_front("firm", front, PREFERENCES, ("helpful", "harmless"), FAST)
    assert found.monotone
    assert found.objectives["helpful"].rises
    assert found.objectives["helpful"].weights == (0.0, 0.5, 1.0)
    gains = [one.value for one in found.objectives["harmless"].gains]
    assert gains == pytest.approx(front.gains.mean(0)[::-1, 1])
    assert found.objectives["harmless"].change.value == pytest.approx(1.0)
    assert (found.seeds, found.prompts) == (3, 41)

    wrong = summarise_front("firm", front, PREFERENCES[::-1], ("helpful", "harmless"), FAST)
    assert not wrong.monotone
    assert not wrong.objectives["helpful"].rises

    flat = Front(front.rewards[:, [0, 0, 0]] + np.random.default_rng(0).normal(size=front.rewards.shape), front.base)
    assert summarise_front("firm", flat, PREFERENCES, ("helpful", "harmless"), FAST).monotone


def test_fronts_that_do_not_fit_are_refused():
    front = drawn(7)
    with pytest.raises(DataError, match="2 preferences and 2 objectives do not fit a front of 3 policies"):
        summarise_front("firm", front, PREFERENCES[:2], ("helpful", "harmless"))
    with pytest.raises(DataError, match="are no front"):
        Front(front.rewards, front.base[:, :-1])
    with pytest.raises(DataError, match="no finite number"):
        Front(np.where(front.rewards > 0, front.rewards, np.nan), front.base)


def test_roughness_of_known_curves():
    assert roughness([0.0, 1.0, 2.0, 3.0]) == 0
    assert roughness([0.0, 1.0, 0.0, 1.0]) == 2
    assert roughness([5.0, 7.0, 5.0, 7.0]) == 2
    assert roughness([0.0, 0.0, 1.0, 1.0]) == pytest.approx(1.0)
    assert roughness([1.0, 1.0, 1.0]) is None
    assert roughness([0.0, 1.0]) is None
