import json

import pytest

from evaluation.made_scores import by_hand
from fedvpa.evaluation.accuracy_results import AccuracyComparison, AccuracySummary
from fedvpa.evaluation.accuracy_tables import comparison
from fedvpa.evaluation.intervals import Bootstrap, Estimate
from fedvpa.evaluation.scores import SWAPPED_Z, ClientScore, control_name

pytestmark = pytest.mark.unit

BOOTSTRAP = Bootstrap(resamples=2003, seed=3)

ROW_KEYS = (
    "method", "n_clients", "seed", "accuracy", "groups", "holdout_accuracy", "holdout_groups", "unseen_accuracy",
    "seconds",
)  # fmt: skip
SUMMARY_KEYS = (
    "method", "n_clients", "seeds", "clients", "mean", "ci95", "method_ci95", "gap_closed", "gap_closed_ci95",
    "gap_closed_method_ci95", "informed_share", "informed_share_ci95", "informed_share_method_ci95", "worst_decile",
    "groups", "holdout_mean", "holdout_ci95", "holdout_method_ci95",
    "holdout_gap_closed", "holdout_gap_closed_ci95", "holdout_gap_closed_method_ci95", "holdout_informed_share",
    "holdout_informed_share_ci95", "holdout_informed_share_method_ci95", "holdout_groups",
    "unseen_mean", "unseen_ci95", "unseen_method_ci95", "unseen_gap_closed", "unseen_gap_closed_ci95",
    "unseen_gap_closed_method_ci95", "unseen_informed_share", "unseen_informed_share_ci95",
    "unseen_informed_share_method_ci95",
)  # fmt: skip
CONTROL_KEYS = ("method", "control", "n_clients", "mean", "ci95", "method_ci95", "difference")
DIFFERENCE_KEYS = (
    "n_clients", "first", "second", "mean", "ci95", "method_ci95", "p_value", "p_holm", "method_p_value",
    "method_p_holm", "clients", "seeds",
)  # fmt: skip


@pytest.fixture(scope="module")
def compared():
    control = ClientScore(control_name("m", SWAPPED_Z), 2, 0, "x", "a", True, 1, 10)
    other = ClientScore(control_name("m", SWAPPED_Z), 2, 0, "y", "b", True, 2, 10)
    return comparison([*by_hand(), control, other], {("m", 2, 0): 1.5}, BOOTSTRAP)


def test_the_file_has_the_documented_keys_in_their_order(compared):
    written = compared.to_dict()
    assert tuple(written) == ("schema_version", "bootstrap", "rows", "summary", "controls", "differences")
    assert written["schema_version"] == 1
    assert written["bootstrap"] == {"resamples": 2003, "seed": 3}
    for name, keys in (
        ("rows", ROW_KEYS),
        ("summary", SUMMARY_KEYS),
        ("controls", CONTROL_KEYS),
        ("differences", DIFFERENCE_KEYS),
    ):
        assert len(written[name]) > 0
        assert all(tuple(entry) == keys for entry in written[name])
    assert json.loads(json.dumps(written, allow_nan=False)) == written


def test_the_attributes_are_the_keys(compared):
    assert isinstance(compared, AccuracyComparison)
    (summary,) = [row for row in compared.summary if row.method == "m"]
    assert isinstance(summary, AccuracySummary)
    assert (summary.mean, summary.method_ci95, summary.seeds, summary.clients) == (0.7, None, (0,), 2)
    assert summary.ci95[0] < 0.6 < 0.8 < summary.ci95[1]
    assert summary.groups == {"a": Estimate(0.8, None), "b": Estimate(0.6, None)}
    (control,) = compared.controls
    assert control.mean == pytest.approx(0.15)
    assert control.difference.value == pytest.approx(-0.55)
    (row,) = [row for row in compared.rows if row.method == "m"]
    assert (row.accuracy, row.unseen_accuracy, row.seconds) == (0.7, 0.6, 1.5)
    assert {(row.first, row.second) for row in compared.differences} == {("m", "global"), ("m", "oracle")}
