"""What is alarming about prototypes and the names that groups give them."""

import math
import re
from itertools import combinations

import numpy as np
import pytest

from fedvpa.evaluation.latent_alarms import collapse_alarms, group_alarms, match_alarms, prototype_alarms

pytestmark = pytest.mark.unit


def test_groups_that_share_their_prototype_are_named():
    assert prototype_alarms([0, 0, 1, 1, 1, 0], 2, list("aaabbb")) == []
    found = prototype_alarms([0, 0, 0, 1, 0, 0], 2, list("aaabbb"))
    assert found[0] == "The groups a and b lean to the same prototype (0): as preferences they are one and the same z."
    assert found[1] == "No group leans to prototype 1, which 1 of 6 clients are at."
    three = prototype_alarms([0, 0, 0, 2, 1], 3, list("abcdd"))
    assert three[0].startswith("The groups a, b and c lean to the same prototype (0)")


def test_three_of_four_clients_at_one_prototype_are_an_alarm_where_no_groups_say_better():
    (found,) = prototype_alarms([0, 0, 0, 1], 2, None)
    assert found.startswith("3 of 4 clients share prototype 0 of 2")
    assert prototype_alarms([0, 0, 1, 1], 2, None) == []
    assert prototype_alarms([0, 0, 0, 1], 2, list("aaab")) == []  # as one-sided as the groups are
    (found,) = prototype_alarms([1, 1, 1, 0], 2, list("aaaa"))
    assert found.startswith("3 of 4 clients share prototype 1 of 2")


def test_a_prototype_that_nobody_is_at_stands_for_nobody():
    assert prototype_alarms([0, 2, 0, 2], 3, None) == [
        "No client is at prototype 1: as a preference it stands for nobody."
    ]


def test_one_prototype_or_one_client_says_nothing():
    assert prototype_alarms([0, 0, 0], 1, None) == []
    assert prototype_alarms([0], 2, None) == []
    assert collapse_alarms(0, 0.0, 1, None) == []


def test_collapse_is_measured_by_the_groups_that_there_are():
    assert collapse_alarms(3, math.log(2) + 0.01, 9, None) == []
    assert len(collapse_alarms(0, math.log(2) - 0.01, 9, None)) == 2
    assert collapse_alarms(3, math.log(2) + 0.01, 9, list("abcabcabc"))[0].endswith(
        "telling 3 groups apart takes 1.10."
    )


def test_groups_that_differ_no_more_than_by_lot_ring_and_others_do_not():
    rng = np.random.default_rng(0)
    rung = [bool(group_alarms(rng.normal(size=(12, 5)), list("ab" * 6))) for _ in range(60)]
    assert 0.65 < np.mean(rung) < 0.95, "four times out of five"
    apart = rng.normal(size=(6, 5)) + 9 * np.repeat([[0.0], [1.0]], 3, axis=0)
    assert group_alarms(apart, list("aaabbb")) == []
    (said,) = group_alarms(apart, list("abbaab"))
    assert said.startswith("The groups a and b differ in z no more than groups drawn by lot: ")
    assert group_alarms(apart, None) == group_alarms(apart, list("aaaaaa")) == []


def test_the_share_of_draws_is_that_of_all_deals():
    """Three and three of six clients in one dimension, of which all twenty deals can be written out."""
    means, groups = np.array([[0.0], [1.0], [3.0], [4.0], [6.0], [9.0]]), np.array(list("abbaab"))
    apart = lambda deal: abs(means[deal].mean() - means[~deal].mean())  # noqa: E731
    deals = [np.isin(range(6), chosen) for chosen in combinations(range(6), 3)]
    exact = np.mean([apart(deal) >= apart(groups == "a") - 1e-9 for deal in deals])
    (said,) = group_alarms(means, groups.tolist())
    assert int(re.search(r"(\d+)% of such draws", said)[1]) / 100 == pytest.approx(exact, abs=0.08)


def test_so_few_clients_that_any_deal_is_as_good_say_nothing_of_groups():
    means = np.array([[0.0], [0.1], [0.0], [0.1]])
    assert group_alarms(means, list("aabb")) == group_alarms(means, list("abcd")) == []


@pytest.mark.unit
def test_prototypes_that_are_not_the_groups_are_said() -> None:
    assert match_alarms(0.5, ["a", "b"]) == []
    (alarm,) = match_alarms(0.29, ["a", "b"])
    assert "adjusted Rand index of 0.29 only" in alarm
    assert match_alarms(0.1, ["a", "a"]) == match_alarms(None, ["a", "b"]) == match_alarms(0.1, None) == []
