import json
import math
from dataclasses import replace

import numpy as np
import pytest

from evaluation.policies import made_up, outcome
from fedvpa.core.errors import ConfigError, DataError
from fedvpa.evaluation.holm import holm
from fedvpa.evaluation.intervals import Bootstrap
from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.evaluation.judges.length_control import length_controlled
from fedvpa.evaluation.win_rates import policy_comparison

pytestmark = pytest.mark.unit

BOOTSTRAP = Bootstrap(resamples=2000)


def compare(outcomes, seconds=None, **options):
    return policy_comparison(outcomes, seconds or {}, bootstrap=BOOTSTRAP, **options).to_dict()


def found(compared, method="fedvpa_gp", preference="helpful", n_clients=7, unseen=False):
    (row,) = [r for r in compared["policy_summary"] if (r["method"], r["n_clients"]) == (method, n_clients)]
    return (row["unseen"] if unseen else row)["preferences"][preference]


def scored(scores, **others):
    return [outcome(score, prompt=f"prompt {number}", **others) for number, score in enumerate(scores)]


@pytest.fixture(scope="module")
def outcomes():
    return made_up(sizes=(5, 7), unseen=("fedvpa_gp",))


@pytest.fixture(scope="module")
def compared(outcomes):
    return compare(outcomes, {("fedvpa_gp", 7, 0): 2.5})


@pytest.mark.parametrize("score", [1.0, 0.5, 0.0])
def test_verdicts_that_are_all_the_same_are_the_rate(score):
    cell = found(compare(scored([score] * 11, response="yes", base_response="not")))
    assert cell["win_rate"] == cell["length_controlled"] == score
    low, high = cell["ci95"]
    assert low <= score <= high
    # One more prompt could still be otherwise.
    assert high - low == pytest.approx(1 - 0.025 ** (1 / 11))


def test_mirrored_verdicts_give_the_mirrored_rate():
    scores = [1.0, 1.0, 0.5, 0.0, 1.0, None, 1.0]
    first = found(compare(scored(scores)))
    second = found(compare(scored([None if score is None else 1 - score for score in scores])))
    assert first["win_rate"] == pytest.approx(4.5 / 6)
    assert second["win_rate"] == pytest.approx(1 - 4.5 / 6)
    assert second["ci95"] == pytest.approx([1 - end for end in reversed(first["ci95"])], abs=0.02)


def test_a_missing_verdict_is_counted_as_missing_and_as_nothing_else():
    scores = [1.0, 0.0, 1.0, None, 0.5]
    judged = [score for score in scores if score is not None]
    cell, alone = found(compare(scored(scores))), found(compare(scored(judged)))
    assert (cell["missing"], cell["outcomes"], cell["prompts"]) == (1, 5, 5)
    for key in ("win_rate", "ci95", "length_controlled", "utility", "utility_gain"):
        assert cell[key] == alone[key]
    nothing = compare(scored([None, None], parsed=None, base_parsed=None))
    assert found(nothing)["win_rate"] is found(nothing)["ci95"] is found(nothing)["parsed"] is None
    assert nothing["policy_summary"][0]["worse_axis"] is None


def test_seeds_are_strata_of_equal_weight():
    cell = found(compare(scored([1.0, 1.0, 0.0, 0.0], seed=0) + scored([1.0], seed=3)))
    assert cell["win_rate"] == pytest.approx((0.5 + 1.0) / 2)


def test_rows_are_one_per_run(compared, outcomes):
    rows = compared["policy_rows"]
    assert [(r["n_clients"], r["method"], r["seed"]) for r in rows[:4]] == [
        (5, "global", 0),
        (5, "global", 1),
        (5, "fedvpa_gp", 0),
        (5, "fedvpa_gp", 1),
    ]
    (row,) = [r for r in rows if (r["method"], r["n_clients"], r["seed"]) == ("fedvpa_gp", 7, 0)]
    own = [o for o in outcomes if (o.method, o.n_clients, o.seed, o.preference) == ("fedvpa_gp", 7, 0, "harmless")]
    for prefix, seen in (("", True), ("unseen_", False)):
        chosen = [o for o in own if o.seen == seen]
        assert row[f"{prefix}win_rates"]["harmless"] == pytest.approx(np.mean([o.score for o in chosen]))
        assert row[f"{prefix}utilities"]["harmless"] == pytest.approx(np.mean([o.utility for o in chosen]))
        assert row[f"{prefix}parsed"]["harmless"] == pytest.approx(np.mean([o.parsed for o in chosen]))
        assert row[f"{prefix}outcomes"] == 2 * len(chosen)
    assert row["seconds"] == 2.5
    assert rows[0]["seconds"] is None


def test_the_summary_is_about_seen_users_with_the_others_apart(compared, outcomes):
    for seen in (True, False):
        cell = found(compared, unseen=not seen)
        own = [
            o for o in outcomes if (o.method, o.n_clients, o.preference, o.seen) == ("fedvpa_gp", 7, "helpful", seen)
        ]
        assert cell["win_rate"] == pytest.approx(np.mean([o.score for o in own]))
        assert cell["utility_gain"] == pytest.approx(np.mean([o.gain for o in own]))
        assert cell["utility_gain"] == pytest.approx(cell["utility"] - cell["base_utility"])
        assert cell["ci95"][0] < cell["win_rate"] < cell["ci95"][1]
        assert cell["utility_gain_ci95"][0] < cell["utility_gain"] < cell["utility_gain_ci95"][1]
        duels = [Duel(o.prompt, o.response, o.base_response, o.preference) for o in own]
        expected = length_controlled(duels, [Verdict(o.score) for o in own]).controlled
        assert cell["length_controlled"] == pytest.approx(expected)
        assert (cell["prompts"], cell["users"], cell["tokens"]) == (43, 10, pytest.approx(3))
    assert next(row for row in compared["policy_summary"] if row["method"] == "global")["unseen"] is None


def test_the_worse_axis_is_the_one_with_fewer_wins(compared):
    rows = {row["method"]: row for row in compared["policy_summary"] if row["n_clients"] == 7}
    assert rows["global"]["worse_axis"] == "harmless"
    for row in rows.values():
        worse = row["preferences"][row["worse_axis"]]["win_rate"]
        assert worse == min(cell["win_rate"] for cell in row["preferences"].values())


def test_the_share_of_the_oracles_gain_is_a_ratio_of_means(compared, outcomes):
    rows = {row["method"]: row for row in compared["policy_summary"] if row["n_clients"] == 7}
    for block, method, unseen in (
        (rows["fedvpl"], "fedvpl", False),
        (rows["fedvpa_gp"]["unseen"], "fedvpa_gp", True),
    ):
        share = block["oracle_share"]["harmless"]
        ratio = (
            found(compared, m, "harmless", unseen=u)["utility_gain"] for m, u in ((method, unseen), ("oracle", False))
        )
        assert share["mean"] == pytest.approx(next(ratio) / next(ratio))
        assert share["ci95"][0] < share["mean"] < share["ci95"][1]
    assert rows["oracle"]["oracle_share"]["helpful"]["mean"] == pytest.approx(1)
    alone = compare([o for o in outcomes if o.method != "oracle"])
    assert alone["policy_summary"][0]["oracle_share"] == {"harmless": None, "helpful": None}


def test_an_oracle_on_other_prompts_says_nothing_about_unseen_users():
    oracle = scored([1.0, 1.0, 1.0], method="oracle")
    unseen = [replace(o, prompt=f"other {o.prompt}") for o in scored([1.0, 0.5, 1.0], user="n", seen=False)]
    row = compare([*oracle, *scored([1.0, 0.5, 1.0]), *unseen])["policy_summary"][0]
    assert row["oracle_share"]["helpful"]["mean"] == pytest.approx(2.5 / 3)
    assert row["unseen"]["oracle_share"]["helpful"] is None


def test_differences_are_paired_by_prompt():
    """Prompt 2 has no verdict on one side: 1 - 0 and 0.5 - 0.5 are left, and the seed's other preference is apart."""
    own = scored([1.0, 0.5, 1.0]) + scored([0.0], preference="harmless")
    other = scored([0.0, 0.5, None], method="global") + scored([1.0], method="global", preference="harmless")
    rows = {row["preference"]: row for row in compare(own + other)["policy_differences"]}
    assert (rows["helpful"]["mean"], rows["helpful"]["prompts"]) == (0.5, 2)
    assert (rows["harmless"]["mean"], rows["harmless"]["prompts"]) == (-1.0, 1)
    assert (rows["helpful"]["first"], rows["helpful"]["second"]) == ("fedvpa_gp", "global")


def test_pairing_takes_out_what_prompts_share():
    hard = [float(number % 2) for number in range(40)]
    own, other = (
        scored(hard),
        scored([0.5 if score == 1.0 and n == 1 else score for n, score in enumerate(hard)], method="x"),
    )
    (row,) = compare(own + other)["policy_differences"]
    unpaired = math.hypot(*(found(compare(o), m)["ci95"][1] - 0.5 for o, m in ((own, "fedvpa_gp"), (other, "x"))))
    assert row["mean"] == pytest.approx(0.5 / 40)
    assert row["ci95"][1] - row["mean"] < unpaired / 5


def test_differences_are_of_the_default_method_where_it_was_run_else_of_the_paper_s():
    some = [scored([1.0, 0.5, 1.0], method=name) for name in ("fedvpa_gp", "fedeb", "global")]
    rows = compare([outcome for own in some for outcome in own])["policy_differences"]
    assert {(row["first"], row["second"]) for row in rows} == {("fedeb", "fedvpa_gp"), ("fedeb", "global")}
    assert {row["first"] for row in compare(some[0] + some[2])["policy_differences"]} == {"fedvpa_gp"}


def test_differences_are_of_the_chosen_method_and_corrected_over_the_table(compared, outcomes):
    rows = compared["policy_differences"]
    assert {(r["n_clients"], r["second"], r["preference"]) for r in rows} == {
        (n, other, name) for n in (5, 7) for other in ("global", "fedvpl", "oracle") for name in ("helpful", "harmless")
    }
    assert {r["first"] for r in rows} == {"fedvpa_gp"}
    assert [r["p_holm"] for r in rows] == holm([r["p_value"] for r in rows])
    sure = next(r for r in rows if (r["n_clients"], r["second"], r["preference"]) == (7, "global", "harmless"))
    assert sure["ci95"][0] > 0
    assert sure["p_holm"] < 0.05
    assert sure["seeds"] == [0, 1]
    assert {r["first"] for r in compare(outcomes, chosen="fedvpl")["policy_differences"]} == {"fedvpl"}
    assert compare(outcomes, chosen="nobody")["policy_differences"] == []


def test_order_never_matters_and_all_is_json(compared, outcomes):
    again = compare(list(reversed(outcomes)), {("fedvpa_gp", 7, 0): 2.5})
    assert json.dumps(again, allow_nan=False, sort_keys=True) == json.dumps(compared, sort_keys=True)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="no outcome"):
        compare([])
    with pytest.raises(DataError, match="is there twice"):
        compare([outcome(), outcome(0.0)])
    with pytest.raises(
        DataError, match=r"seed 0, helpful: global and fedvpa_gp differ|fedvpa_gp and global differ"
    ) as odd:
        compare(scored([1.0, 1.0]) + scored([1.0], method="global"))
    assert "1 prompts (such as 'prompt 1')" in str(odd.value)
    with pytest.raises(ConfigError, match=r"level 0\.9"):
        policy_comparison([outcome()], {}, bootstrap=Bootstrap(level=0.9))
