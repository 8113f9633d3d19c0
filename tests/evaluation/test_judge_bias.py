import pytest

from evaluation.policies import outcome
from fedvpa.core.errors import DataError
from fedvpa.evaluation.judge_bias import JudgeSummary, bias_warnings, flipped_share, judge_lines, judge_summaries
from fedvpa.evaluation.outcomes import load_outcomes, save_outcomes
from fedvpa.evaluation.report.tables import policy_table_text
from fedvpa.evaluation.win_rates import policy_comparison

FIRST = [outcome(0.5, prompt=f"p{n}", judge="first", first_seat=1.0) for n in range(7)]
"""A judge that always names the answer shown first."""
FAIR = [outcome(float(n % 2), prompt=f"p{n}", judge="fair", first_seat=0.5) for n in range(4)]


@pytest.mark.unit
def test_a_judge_is_summed_up_over_everything_it_judged():
    mixed = [
        *FAIR,
        outcome(0.5, prompt="p4", judge="fair", first_seat=0.0),
        outcome(0.5, prompt="p5", judge="fair"),  # identical answers: nobody was asked
        outcome(None, prompt="p6", judge="fair"),
    ]
    assert judge_summaries([*FIRST, *mixed]) == (
        JudgeSummary("fair", 7, 1, 2, 5, flipped=1 / 5, first_seat=0.4, position_biased=False),
        JudgeSummary("first", 7, 0, 7, 7, flipped=1.0, first_seat=1.0, position_biased=True),
    )
    assert flipped_share([outcome(1.0)]) is None


@pytest.mark.unit
@pytest.mark.parametrize(("flipped", "loud"), [(3, False), (4, True)])
def test_a_third_of_flipped_verdicts_is_loud(flipped, loud):
    outcomes = [outcome(0.5, first_seat=float(n % 2)) for n in range(flipped)]
    outcomes += [outcome(1.0, first_seat=0.5) for _ in range(9 - flipped)]
    (summary,) = judge_summaries(outcomes)
    assert summary.position_biased is loud
    assert len(bias_warnings([summary.to_dict()])) == loud


@pytest.mark.unit
def test_the_table_says_how_the_judge_decided():
    compared = policy_comparison(FIRST, {}).to_dict()
    (summary,) = compared["policy_judges"]
    assert (summary["flipped"], summary["first_seat"], summary["position_biased"]) == (1.0, 1.0, True)
    helpful = compared["policy_summary"][0]["preferences"]["helpful"]
    assert (helpful["win_rate"], helpful["ties"], helpful["flipped"]) == (0.5, 7, 1.0)
    text = " ".join(policy_table_text(compared).split())
    assert "Judge first: 7 duels in both orders, 100.0% of verdicts flipped (a tie)" in text
    assert "the answer shown first won 100.0% of the calls. 7 ties and 0 missing verdicts in 7 duels." in text
    assert "WARNING: the judge 'first' decides by the place of an answer: 100.0% of its verdicts flipped" in text


@pytest.mark.unit
def test_a_judge_that_sees_no_order_has_no_share_and_no_line():
    compared = policy_comparison([outcome(1.0, judge="world")], {}).to_dict()
    (summary,) = compared["policy_judges"]
    assert (summary["both_orders"], summary["flipped"], summary["first_seat"]) == (0, None, None)
    assert judge_lines([summary]) == bias_warnings([summary]) == []
    text = policy_table_text(compared)
    assert "flipped" not in text
    del compared["policy_judges"]  # a comparison of an earlier release
    assert policy_table_text(compared) == text


@pytest.mark.unit
def test_outcomes_keep_it_and_those_of_an_earlier_release_are_read(tmp_path):
    save_outcomes(tmp_path / "o.jsonl", FIRST)
    assert load_outcomes(tmp_path / "o.jsonl") == FIRST
    text = (tmp_path / "o.jsonl").read_text().replace(', "judge": "first", "first_seat": 1.0', "")
    (tmp_path / "old.jsonl").write_text(text)
    assert {(one.judge, one.first_seat) for one in load_outcomes(tmp_path / "old.jsonl")} == {("", None)}
    for score, seat in ((1.0, 1.0), (None, 0.0), (1.0, 0.3)):
        with pytest.raises(DataError):
            outcome(score, first_seat=seat)
