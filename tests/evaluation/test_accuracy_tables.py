import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.special import logit

from evaluation.made_scores import by_hand, score
from fedvpa.core.errors import ConfigError, DataError
from fedvpa.evaluation.accuracy_tables import comparison, few_shot_curve
from fedvpa.evaluation.intervals import Bootstrap
from fedvpa.evaluation.scores import PRIOR_MEAN_Z, SWAPPED_Z, control_name

pytestmark = pytest.mark.unit

BOOTSTRAP = Bootstrap(resamples=2000)


def compare(scores, seconds=None):
    return comparison(scores, seconds or {}, BOOTSTRAP).to_dict()


def find(rows, **wanted):
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


def test_rows_by_hand():
    compared = compare(by_hand(), {("m", 2, 0): 1.5})
    assert find(compared["rows"], method="m") == {
        "method": "m",
        "n_clients": 2,
        "seed": 0,
        "accuracy": 0.7,
        "groups": {"a": 0.8, "b": 0.6},
        "holdout_accuracy": 0.6,
        "holdout_groups": {"a": 0.6, "b": 0.6},
        "unseen_accuracy": 0.6,
        "seconds": 1.5,
    }
    assert find(compared["rows"], method="global")["seconds"] is None


def test_summary_by_hand():
    row = find(compare(by_hand())["summary"], method="m")
    assert (row["mean"], row["clients"], row["seeds"]) == (0.7, 2, [0])
    # Student's t with one degree of freedom, on the logarithm of the odds.
    half = stats.t.ppf(0.975, 1) * 0.1 / (0.7 * 0.3)
    assert logit(row["ci95"]) == pytest.approx([logit(0.7) - half, logit(0.7) + half])
    assert row["method_ci95"] is None  # one seed says nothing about others
    assert row["gap_closed"] == pytest.approx(0.8)
    assert row["gap_closed_ci95"] is None  # the lead of two clients is not distinguishable from zero
    assert row["worst_decile"]["mean"] == 0.6
    assert row["groups"] == {
        name: {"mean": mean, "ci95": None, "method_ci95": None} for name, mean in (("a", 0.8), ("b", 0.6))
    }
    others = 1 - 0.025**0.5
    assert (row["holdout_mean"], row["holdout_ci95"], row["holdout_gap_closed"]) == (
        0.6,
        pytest.approx([0.6 - 0.6 * others, 0.6 + 0.4 * others]),
        pytest.approx(0.5),
    )
    assert (row["unseen_mean"], row["unseen_ci95"]) == (0.6, None)
    assert (row["unseen_gap_closed"], row["unseen_gap_closed_ci95"]) == (pytest.approx(2 / 3), None)


def test_a_missing_yardstick_or_holdout_is_null_and_the_whole_is_json():
    scores = [
        replace(s, holdout_correct=None, holdout_total=None) for s in by_hand() if s.method != "oracle" and s.seen
    ]
    compared = compare(scores)
    row = find(json.loads(json.dumps(compared, allow_nan=False))["summary"], method="m")
    for key in ("gap_closed", "gap_closed_ci95", "holdout_mean", "holdout_gap_closed", "unseen_mean", "unseen_ci95"):
        assert row[key] is None
    assert row["holdout_groups"] == {}


def test_the_share_of_informeds_gain_is_a_ratio_of_means_and_moves_no_gap():
    informed = [replace(s, method="informed", correct=s.correct - 0.5) for s in by_hand() if s.method == "oracle"]
    with_it, without = (find(compare(scores)["summary"], method="m") for scores in ([*by_hand(), *informed], by_hand()))
    assert with_it["informed_share"] == pytest.approx((0.7 - 0.5) / (0.7 - 0.5))
    assert with_it["unseen_informed_share"] == pytest.approx((0.6 - 0.4) / (0.65 - 0.4))
    assert with_it["gap_closed"] == without["gap_closed"] == pytest.approx(0.8)
    assert without["informed_share"] is None
    pairs = {(row["first"], row["second"]) for row in compare([*by_hand(), *informed])["differences"]}
    assert pairs == {("m", "global"), ("m", "informed"), ("m", "oracle")}, "yardsticks are no rivals of each other"


def test_one_row_per_run_and_one_summary_per_cell_in_a_fixed_order(make_scores):
    scores = make_scores(sizes=(11, 5), seeds=(3, 1))
    compared = compare(scores[::-1])
    assert compared == compare(scores)
    order = ["global", "local", "fedvpa_gp", "fedvpl", "oracle"]
    assert [(row["n_clients"], row["method"]) for row in compared["summary"]] == [
        (n, m) for n in (5, 11) for m in order
    ]
    assert [row["seed"] for row in compared["rows"]] == [1, 3] * 10


def test_summary_of_many_clients_agrees_with_the_levels_that_made_them(make_scores):
    compared = compare(make_scores(sizes=(53,), unseen=17))
    row = find(compared["summary"], method="fedvpa_gp")
    assert row["ci95"][0] < 0.79 < row["ci95"][1]
    assert row["gap_closed"] == pytest.approx((0.79 - 0.61) / (0.82 - 0.61), abs=0.01)
    # Clients share their luck between methods: the ratio is far surer than either accuracy.
    assert np.ptp(row["gap_closed_ci95"]) * 0.21 < np.ptp(row["ci95"])
    assert row["unseen_mean"] < row["mean"]
    assert row["worst_decile"]["mean"] < row["mean"] - 0.04


def test_differences_leave_out_yardsticks_among_themselves_and_adjust_the_rest(make_scores):
    differences = compare(make_scores(sizes=(5, 11), seeds=(0, 1)))["differences"]
    pairs = {(row["first"], row["second"]) for row in differences}
    assert pairs == {("fedvpa_gp", "fedvpl")} | {
        (m, y) for m in ("fedvpa_gp", "fedvpl") for y in ("global", "local", "oracle")
    }
    assert len(differences) == 14
    smallest = min(row["p_value"] for row in differences)
    assert find(differences, p_value=smallest)["p_holm"] == pytest.approx(14 * smallest)
    row = find(differences, n_clients=11, first="fedvpa_gp", second="fedvpl")
    assert (row["clients"], row["seeds"]) == (22, [0, 1])
    assert row["ci95"][0] < 0.08 < row["ci95"][1]


def test_bayes_is_a_bound_and_not_a_rival(make_scores):
    scores = make_scores(seeds=(0,))
    bayes = [replace(s, method="bayes") for s in scores if s.method == "oracle"]
    compared = compare(scores + bayes)
    assert compared["summary"][-1]["method"] == "bayes"
    assert all("bayes" not in (row["first"], row["second"]) for row in compared["differences"])


def test_controls_stand_beside_their_method_and_never_among_the_rows():
    swapped = [
        replace(s, method=control_name("m", SWAPPED_Z), correct=10 - s.correct) for s in by_hand() if s.method == "m"
    ]
    compared = compare(by_hand() + swapped)
    (control,) = compared["controls"]
    assert (control["method"], control["control"], control["n_clients"]) == ("m", SWAPPED_Z, 2)
    assert control["mean"] == pytest.approx(0.3)
    assert control["difference"]["mean"] == pytest.approx(-0.4)
    assert {row["method"] for row in compared["rows"]} == {"global", "m", "oracle"}


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="no score"):
        comparison([], {})
    with pytest.raises(DataError, match="is a control of 'q'"):
        comparison([*by_hand(), score(control_name("q", PRIOR_MEAN_Z), "x", 1)], {})
    with pytest.raises(DataError, match="scored under one method"):
        comparison([*by_hand(), score("m", "w", 1)], {})
    with pytest.raises(ConfigError, match="ci95"):
        comparison(by_hand(), {}, Bootstrap(level=0.9))


def test_a_few_shot_curve_is_about_unseen_clients_only():
    shots = {k: [score("m", "z", k, seen=False), score("m", "x", 9)] for k in (4, 1)}
    shots[4].append(score("m", "u", 6, seen=False))
    one, both = (point.to_dict() for point in few_shot_curve(shots, BOOTSTRAP))
    assert tuple(one) == ("method", "n_clients", "context_pairs", "mean", "ci95", "method_ci95", "clients")
    assert (one["context_pairs"], one["mean"], one["ci95"], one["clients"]) == (1, 0.1, None, 1)
    assert (both["context_pairs"], both["mean"], both["clients"]) == (4, 0.5, 2)
    assert both["ci95"][0] < 0.4 < 0.6 < both["ci95"][1]
