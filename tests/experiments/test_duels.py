"""Verdicts: the policy's answer first, the base policy's second, and everything of a duel in the right outcome."""

import numpy as np
import pytest

from experiments.stub_policy import PrefersPolicy, StubPolicy, served, users
from fedvpa.core.errors import JudgeError
from fedvpa.data.schema import Message
from fedvpa.evaluation.judges.by_reward import RewardJudge
from fedvpa.experiments.answers import BASE, Answers
from fedvpa.experiments.contests import EVERYBODY, contests, path
from fedvpa.experiments.duels import answered, judged
from fedvpa.policy.sampling import Sampling

pytestmark = pytest.mark.unit

PROMPTS = ["p0", (Message("user", "p1"),), "p2", "p3"]


def outcomes(judge, who=None, limit=0.05, count=3, found=None):
    who = who or served()
    book = Answers(
        PROMPTS,
        Sampling(0.7),
        who.seed,
        {"": "w", "a": "wa", "b": "wb", BASE: "b"},
        lambda name: StubPolicy(f"policy{name}"),
    )
    found = found or contests(who, len(PROMPTS))
    return judged(who, [answered(one, book, count) for one in found], judge, limit)


def test_a_win_is_the_policys_whose_answer_the_judge_sees_first():
    judge = PrefersPolicy()
    found = outcomes(judge)
    assert all(one.score == 1.0 for own in found for one in own)
    assert all(duel.first.startswith("policy") and duel.second.startswith("base") for duel in judge.asked)
    lost = outcomes(PrefersPolicy("base"))
    assert all(one.score == 0.0 for own in lost for one in own)
    for own in found:
        for one in own:
            assert one.response.startswith("policy")
            assert one.base_response.startswith("base to")
            assert one.tokens == len(one.response)


def test_each_user_is_served_with_the_own_z_and_judged_by_the_own_preference():
    judge = PrefersPolicy()
    found = [one for own in outcomes(judge) for one in own]
    z = {**{f"s{row}": [10.0 + row, 0.0] for row in range(4)}, "u0": [20.0, 0.0], "u1": [21.0, 0.0]}
    group = {"s0": "a", "s1": "b", "s2": "a", "s3": "a", "u0": "b", "u1": "a"}
    assert {one.user_id for one in found} == z.keys()
    for one, duel in zip(found, judge.asked, strict=True):
        assert f" at {z[one.user_id]} " in one.response
        assert one.preference == group[one.user_id] == duel.preference
        assert one.seen == one.user_id.startswith("s")
        assert (one.response, one.base_response) == (duel.first, duel.second)
        assert (one.method, one.n_clients, one.seed, one.judge, one.first_seat) == ("fedvpa_gp", 4, 5, "stub", 0.5)


def test_only_the_prompts_asked_for_are_judged_and_conversations_reach_the_judge_as_such():
    judge = PrefersPolicy()
    found = outcomes(judge)
    assert [one.prompt for one in found[0]] == ["p0", "user: p1", "p2"]
    assert [duel.prompt for duel in judge.asked[:3]] == PROMPTS[:3]


def test_missing_verdicts_are_counted_contest_by_contest():
    with pytest.raises(JudgeError, match=r"2 of 3 verdicts are missing.*no reply \(2\)"):
        outcomes(PrefersPolicy(missing=2))
    found = outcomes(PrefersPolicy(missing=2), limit=0.7)
    assert [one.score for one in found[0]] == [None, None, 1.0]
    assert all(one.score == 1.0 for own in found[1:] for one in own)


def test_a_policy_without_z_has_the_same_answers_under_every_preference():
    found = outcomes(PrefersPolicy(), served(personal=False))
    first, second = ([one.response for one in own] for own in found)
    assert first == second
    assert {one.preference for own in found for one in own} == {"a", "b"}
    assert {(one.user_id, one.seen) for own in found for one in own} == {("", True)}


def test_the_policy_of_a_group_answers_under_its_preference():
    judge = PrefersPolicy()
    outcomes(judge, served(personal=False, policies=("a", "b")))
    assert all(duel.first.startswith(f"policy{duel.preference} ") for duel in judge.asked)


def test_the_path_is_answered_step_by_step_and_judged_under_both_preferences():
    steps = path(served(), len(PROMPTS))
    found = outcomes(PrefersPolicy(), found=[one for step in steps for one in step])
    assert [own[0].preference for own in found] == ["a", "b"] * 5
    for step in range(5):
        share = step / 4
        for own in found[2 * step : 2 * step + 2]:
            assert all(f" at {[1 - share, share]} " in one.response for one in own)


class Letters:
    """A reward that knows what answers are worth: their length, above or below by preference."""

    name = "letters"

    def score(self, items, preference):
        return list(map(float, self.utilities(items, preference)[0]))

    def utilities(self, items, preference):
        sign = 1 if preference == "a" else -1
        return np.array([sign * float(len(text)) for _, text in items]), np.array([len(text) > 50 for _, text in items])


def test_utilities_are_those_of_the_answers_that_they_stand_beside():
    found = [one for own in outcomes(RewardJudge(Letters())) for one in own]
    for one in found:
        sign = 1 if one.preference == "a" else -1
        assert (one.utility, one.base_utility) == (sign * len(one.response), sign * len(one.base_response))
        assert (one.parsed, one.base_parsed) == (len(one.response) > 50, len(one.base_response) > 50)
        assert one.score == float(one.utility > one.base_utility)
    assert all(one.utility is None and one.parsed is None for own in outcomes(PrefersPolicy()) for one in own)


def test_where_everybody_has_a_taste_of_the_own_duels_and_utilities_are_judged_by_it():
    tastes = {"s0": "a", "s1": "b"}
    alone = served(seen=users([None, None], 10, "s"), unseen=users([], 20, "u"), latents={}, tastes=tastes)
    judge = PrefersPolicy()
    (found,) = outcomes(judge, alone)
    assert [duel.preference for duel in judge.asked] == ["a", "b", "a"]
    assert {one.preference for one in found} == {EVERYBODY}
    (found,) = outcomes(RewardJudge(Letters()), alone)
    for place, one in enumerate(found):
        sign = (1, -1)[place % 2]
        assert (one.utility, one.base_utility) == (sign * len(one.response), sign * len(one.base_response))
        assert one.score == float(one.utility > one.base_utility)
