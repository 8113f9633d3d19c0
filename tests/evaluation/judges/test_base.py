import pytest

from fedvpa.core.errors import ConfigError, DataError, FedvpaError, InputError, JudgeError
from fedvpa.evaluation.judges.base import DEFAULT_MISSING_LIMIT, Verdict, check_missing, exact_reward_of
from fedvpa.evaluation.judges.by_reward import RewardJudge
from fedvpa.rewards.world import WorldReward


def verdicts(given, missing):
    return [Verdict(1.0)] * given + [Verdict(None, "time-out")] * missing


@pytest.mark.unit
def test_as_many_missing_verdicts_as_the_limit_pass_and_one_more_does_not():
    assert DEFAULT_MISSING_LIMIT == 0.05
    check_missing(verdicts(95, 5))
    with pytest.raises(JudgeError, match=r"6 of 101 verdicts are missing, more than the 5\.0% allowed.*time-out \(6\)"):
        check_missing(verdicts(95, 6))
    check_missing(verdicts(3, 0), 0.0)
    check_missing(verdicts(0, 3), 1.0)
    with pytest.raises(JudgeError):
        check_missing(verdicts(9999, 1), 0.0)


@pytest.mark.unit
def test_ties_are_not_missing():
    check_missing([Verdict(0.5, "A in both orders", flipped=True), Verdict(0.0), Verdict(0.5)], 0.0)


@pytest.mark.unit
def test_the_most_frequent_reasons_come_first():
    given = [Verdict(None, reason) for reason in "abbcccdddd"]
    with pytest.raises(JudgeError, match=r"Reasons: d \(4\); c \(3\); b \(2\); …\."):
        check_missing(given)


@pytest.mark.unit
def test_a_judge_error_is_no_wrong_input():
    error = JudgeError("It is down.", fix="Start it.", where="http://host/v1")
    assert str(error) == "http://host/v1: It is down. Start it."
    assert isinstance(error, FedvpaError)
    assert not isinstance(error, InputError)
    assert error.exit_code == 1


@pytest.mark.unit
@pytest.mark.parametrize(
    "values", [(0.7,), (None,), (None, ""), (1.0, "why", True), (None, "why", True), (float("nan"),)], ids=str
)
def test_verdicts_that_cannot_be_are_refused(values):
    with pytest.raises(DataError):
        Verdict(*values)


@pytest.mark.unit
def test_wrong_input_is_named():
    with pytest.raises(DataError, match="no verdicts"):
        check_missing([])
    with pytest.raises(ConfigError, match="a share, not 5"):
        check_missing(verdicts(1, 0), 5)


@pytest.mark.unit
def test_a_judge_by_exact_utilities_says_so():
    class Direct:
        name = "direct"

        def compare(self, duels):
            return [Verdict(0.5)] * len(duels)

    class Estimated:
        name = "estimated"

        def score(self, items, preference):
            return [0.0] * len(items)

    world = WorldReward()
    assert exact_reward_of(RewardJudge(world)) is world
    assert exact_reward_of(RewardJudge(Estimated())) is None
    assert exact_reward_of(Direct()) is None
