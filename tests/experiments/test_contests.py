"""Who answers for whom: every user with the own z, under the own preference, and the way between two preferences."""

import pytest

from experiments.stub_policy import served, users
from fedvpa.core.errors import DataError
from fedvpa.experiments.contests import EVERYBODY, contests, left_out, path, why_no_path

pytestmark = pytest.mark.unit


def test_users_of_a_preference_take_turns_each_with_the_own_z():
    found = {(one.preference, one.seen): one for one in contests(served(), 5)}
    assert list(found) == [("a", True), ("b", True), ("a", False), ("b", False)]
    assert found["a", True].users == ("s0", "s2", "s3", "s0", "s2")
    assert found["a", True].z.tolist() == [[10, 0], [12, 0], [13, 0], [10, 0], [12, 0]]
    assert found["b", True].users == ("s1",) * 5
    assert found["b", True].z.tolist() == [[11, 0]] * 5
    assert found["a", False].users == ("u1",) * 5
    assert found["a", False].z.tolist() == [[21, 0]] * 5
    assert {one.policy for one in found.values()} == {""}
    assert {one.stream for one in found.values() if one.seen} == {("seen",)}
    assert {one.stream for one in found.values() if not one.seen} == {("unseen",)}


def test_more_prompts_leave_the_users_of_the_first_ones_as_they_are():
    few, many = contests(served(), 4), contests(served(), 9)
    for one, other in zip(few, many, strict=True):
        assert other.users[:4] == one.users
        assert other.z[:4].equal(one.z)


def test_a_preference_without_users_of_a_kind_has_no_contest_of_it():
    found = contests(served(unseen=users(["b"], 20, "u")), 3)
    assert [(one.preference, one.seen) for one in found] == [("a", True), ("b", True), ("b", False)]


def test_a_policy_without_z_is_asked_once_for_all_preferences():
    found = contests(served(personal=False, method="global"), 3)
    assert [one.preference for one in found] == ["a", "b"]
    assert {(one.policy, one.users, one.z, one.seen, one.stream) for one in found} == {("", ("",) * 3, None, True, ())}


def test_a_method_with_a_policy_for_each_group_answers_with_that_of_the_preference():
    found = contests(served(personal=False, method="oracle", policies=("a", "b")), 3)
    assert [(one.preference, one.policy) for one in found] == [("a", "a"), ("b", "b")]
    with pytest.raises(DataError, match="no policy for 'b'"):
        contests(served(personal=False, policies=("a",)), 3)


def test_without_groups_all_users_ask_under_one_preference_and_no_path_leads_anywhere():
    lonely = served(seen=users([None, None], 10, "s"), unseen=users([None], 20, "u"), latents={})
    found = contests(lonely, 3)
    assert [(one.preference, one.seen) for one in found] == [(EVERYBODY, True), (EVERYBODY, False)]
    assert found[0].users == ("s0", "s1", "s0")
    assert found[0].z.tolist() == [[10, 0], [11, 0], [10, 0]]
    assert path(lonely, 3) == []
    assert "knows no preference by a z" in why_no_path(lonely)
    assert left_out(lonely) == []


def test_where_everybody_is_judged_by_the_own_taste_it_goes_with_the_user():
    tastes = {"s0": "taste 0", "s1": "taste 1", "u0": "taste 2"}
    alone = served(seen=users([None, None], 10, "s"), unseen=users([None], 20, "u"), latents={}, tastes=tastes)
    seen, unseen = contests(alone, 3)
    assert (seen.users, seen.tastes) == (("s0", "s1", "s0"), ("taste 0", "taste 1", "taste 0"))
    assert (unseen.users, unseen.tastes) == (("u0",) * 3, ("taste 2",) * 3)
    assert alone.judged_under == ("taste 0", "taste 1", "taste 2")
    assert alone.preferences == (EVERYBODY,)
    plain = served(personal=False, method="global", seen=alone.seen, unseen=alone.unseen, latents={}, tastes=tastes)
    (one,) = contests(plain, 3)  # on each prompt by the same taste as a personal policy
    assert (one.users, one.tastes, one.judged_by(2)) == (("",) * 3, seen.tastes, ("taste 0", "taste 1"))
    assert contests(served(), 3)[0].judged_by(2) == ("a", "a")
    assert served().judged_under == ("a", "b")


def test_users_who_are_mixtures_of_the_pairs_groups_all_ask_under_each():
    mixed = served(seen=users([None, None], 10, "s"), unseen=users([], 20, "u"), latents={}, groups=("b", "a"))
    assert [(one.preference, one.users) for one in contests(mixed, 3)] == [
        ("a", ("s0", "s1", "s0")),
        ("b", ("s0", "s1", "s0")),
    ]
    assert served(groups=("c",)).preferences == ("a", "b")
    plain = served(personal=False, method="firm", seen=mixed.seen, unseen=mixed.unseen, latents={}, groups=("a", "b"))
    assert [(one.preference, one.users) for one in contests(plain, 2)] == [("a", ("", "")), ("b", ("", ""))]
    assert left_out(mixed) == []


def test_users_without_a_group_among_others_are_left_out_and_counted():
    some = served(seen=users(["a", None, "b", None], 10, "s"))
    assert [one.users for one in contests(some, 2)][:2] == [("s0", "s0"), ("s2", "s2")]
    assert left_out(some) == ["2 of 6 users have no group; policies are judged by the others."]


def test_the_path_leads_in_equal_steps_from_the_first_preference_to_the_second_each_judged_under_both():
    steps = path(served(), 2)
    assert [step[0].z.tolist() for step in steps] == [
        [[1.0, 0.0]] * 2,
        [[0.75, 0.25]] * 2,
        [[0.5, 0.5]] * 2,
        [[0.25, 0.75]] * 2,
        [[0.0, 1.0]] * 2,
    ]
    assert all([one.preference for one in step] == ["a", "b"] for step in steps)
    assert all(step[0].z.equal(step[1].z) for step in steps)
    assert all(one.users == ("", "") and one.stream == ("path",) and one.policy == "" for step in steps for one in step)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"personal": False}, "follow no z"),
        ({"latents": {"a": [1.0, 0.0]}}, "knows one preference ('a') by a z"),
        ({"latents": {"a": [1.0, 0.0], "b": [1.0, 0.0]}}, "has the same z for 'a' and 'b'"),
    ],
)
def test_where_no_path_leads_it_is_said(changes, reason):
    assert reason in why_no_path(served(**changes))
    assert path(served(**changes), 2) == []
    assert why_no_path(served()) is None
