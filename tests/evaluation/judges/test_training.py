import numpy as np
import pytest

from fedvpa.core.errors import DataError
from fedvpa.data.schema import Pair, PairTable
from fedvpa.evaluation.judges.by_reward import RewardJudge
from fedvpa.evaluation.judges.held_out import make_held_out_judge
from fedvpa.evaluation.judges.training import held_out_accuracy, longer_preferred, train_judge
from fedvpa.rewards.held_out import HeldOutReward

pytestmark = pytest.mark.unit


def test_the_accuracy_and_its_interval_count_prompts():
    pairs = [Pair(f"p{number % 10}", "long one", "short") for number in range(40)]
    margins = np.where(np.arange(40) % 10 < 7, 1.0, -1.0)  # the pairs of one prompt agree
    units = [pair.prompt for pair in pairs]
    found = held_out_accuracy(margins, pairs, units)
    assert (found.value, found.pairs, found.prompts, found.longer) == (0.7, 40, 10, 1.0)
    apart = held_out_accuracy(margins, pairs, [str(number) for number in range(40)])
    assert found.ci95[0] < apart.ci95[0] < 0.7 < apart.ci95[1] < found.ci95[1]
    # By hand: the standard error of 40 independent pairs, on the logarithm of the odds, with t of 39 degrees.
    half = 2.0227 * np.sqrt(0.7 * 0.3 / 39) / (0.7 * 0.3)
    assert apart.ci95[0] == pytest.approx(1 / (1 + np.exp(half - np.log(0.7 / 0.3))), abs=1e-3)
    whole = held_out_accuracy(np.ones(40), pairs, units)
    assert whole.value == 1.0
    assert whole.ci95[0] < 0.75
    assert whole.ci95[1] == 1.0
    assert held_out_accuracy(np.ones(2), pairs[:2], ["p", "p"]).ci95 is None


def test_a_margin_of_zero_is_half_right_and_equal_lengths_are_half_longer():
    assert held_out_accuracy(np.zeros(2), [Pair("p", "a", "b"), Pair("q", "aa", "b")], ["p", "q"]).value == 0.5
    np.testing.assert_array_equal(
        longer_preferred([Pair("p", "a", "b"), Pair("q", "aa", "b"), Pair("q", "a", "bb")]), [0.5, 1.0, 0.0]
    )


def test_pairs_that_no_judge_can_be_trained_on_are_refused():
    with pytest.raises(DataError, match="others have one"):
        train_judge(PairTable((Pair("p", "a", "b", group="x"), Pair("q", "a", "b", place="f:2"))), "none", "")


def test_too_few_prompts_are_refused(model_folder):
    few = PairTable(tuple(Pair(f"w{number % 19}", f"w{number}", f"w{number + 1}") for number in range(30)))
    with pytest.raises(DataError, match="'all' has pairs on 19 prompts, and a judge needs 20"):
        train_judge(few, str(model_folder("bert")), "")


def test_an_endpoint_takes_the_place_of_the_trained_judge(trained_judge, capsys):
    settings = {"path": str(trained_judge)}
    judge = make_held_out_judge(settings, None)
    assert isinstance(judge, RewardJudge)
    assert isinstance(judge.reward, HeldOutReward)
    asked = make_held_out_judge(settings | {"base_url": "http://localhost:9/v1", "model": "m", "api_key_env": ""}, None)
    assert getattr(asked, "reward", None) is None
    assert "http://localhost:9/v1 judges" in capsys.readouterr().err
