from dataclasses import replace

import pytest

from evaluation.made_scores import by_hand
from fedvpa.evaluation.accuracy_tables import comparison
from fedvpa.evaluation.intervals import Bootstrap
from fedvpa.evaluation.report.cells import MISSING, worded
from fedvpa.evaluation.report.tables import policy_summary_text, policy_table_text, summary_text, table_text
from fedvpa.evaluation.win_rates import policy_comparison

pytestmark = pytest.mark.unit

BOOTSTRAP = Bootstrap(resamples=2000)


def test_the_table_leaves_out_what_nobody_knows_and_marks_what_one_row_lacks():
    text = summary_text(comparison(by_hand(), {("m", 2, 0): 1.5}, BOOTSTRAP).to_dict())
    assert text.header[:6] == ("N", "method", "accuracy", "gap closed", "a", "b")
    row = dict(zip(text.header, text.rows[1], strict=True))
    assert (row["accuracy"], row["gap closed"], row["seconds"]) == ("0.700 [0.005, 0.999]", "0.80", "1.5")
    low = dict(zip(text.header, text.rows[0], strict=True))
    assert (low["gap closed"], low["hold-out gap"], low["seconds"]) == ("0.00", "0.00", MISSING)
    bare = [replace(s, holdout_correct=None, holdout_total=None) for s in by_hand() if s.method == "m" and s.seen]
    assert summary_text(comparison(bare, {}, BOOTSTRAP).to_dict()).header == (
        "N",
        "method",
        "accuracy",
        "a",
        "b",
        "worst tenth",
    )


def test_the_printed_table_holds_every_cell():
    compared = comparison(by_hand(), {}, BOOTSTRAP).to_dict()
    printed = table_text(compared, width=120)
    for cell in (cell for row in summary_text(compared).rows for cell in row):
        assert all(part in printed for part in cell.replace(" [", "\n[").split("\n"))
    assert max(map(len, printed.splitlines())) <= 120
    assert "with one seed, nothing is said about the method" in " ".join(printed.split())


def test_numbers_are_worded_with_what_is_known():
    assert worded(None) == MISSING
    assert worded(0.8, [0.7, 0.9], [0.6, 0.95]) == "0.800 [0.700, 0.900] ([0.600, 0.950])"
    assert worded(-0.0504, [-0.2, 0.1], digits=2) == "-0.05 [-0.20, 0.10]"
    assert worded(-0.0004, [-0.0003, 0.0], digits=2) == "0.00 [0.00, 0.00]"


def cells(text, *start):
    (row,) = [row for row in text.rows if row[: len(start)] == start]
    return dict(zip(text.header, row, strict=True))


def test_the_table_has_a_row_per_method_preference_and_kind_of_users(policies):
    text = policy_summary_text(policies)
    assert len(text.rows) == 2 * 2 * (4 + 1)
    row = next(r for r in policies["policy_summary"] if (r["method"], r["n_clients"]) == ("fedvpl", 7))
    worse = row["worse_axis"]
    found = cells(text, "7", "fedvpl", f"{worse} ↓")
    low, high = row["preferences"][worse]["ci95"]
    least, most = row["preferences"][worse]["method_ci95"]
    rate = row["preferences"][worse]["win_rate"]
    assert found["win rate"] == f"{rate:.3f} [{low:.3f}, {high:.3f}] ([{least:.3f}, {most:.3f}])"
    assert found["seconds"] == "2.5"
    assert found["users"] == "seen"
    share = row["oracle_share"][worse]
    assert found["of oracle's gain"].startswith(f"{share['mean']:.2f} [{share['ci95'][0]:.2f}")
    unseen = [r for r in text.rows if "unseen" in r]
    assert {r[1] for r in unseen} == {"fedvpa_gp"}
    oracle = next(r for r in text.rows if r[:2] == ("7", "oracle"))
    assert "1.00" in oracle


def test_columns_that_nothing_fills_are_left_out(outcomes):
    bare = [replace(o, utility=None, base_utility=None, parsed=None, base_parsed=None) for o in outcomes if o.seen]
    text = policy_summary_text(policy_comparison(bare, {}, bootstrap=BOOTSTRAP).to_dict())
    assert text.header == ("N", "method", "preference", "win rate", "same length")
    gone = [replace(bare[0], score=None), *bare[1:]]
    assert policy_summary_text(policy_comparison(gone, {}, bootstrap=BOOTSTRAP).to_dict()).header[-1] == "missing"


def test_the_plain_table_fits_a_terminal(policies):
    text = policy_table_text(policies)
    assert max(map(len, text.splitlines())) <= 120
    assert "over training seeds too" in " ".join(text.split())
    for row in policy_summary_text(policies).rows:
        for cell in row:
            assert cell.split(" [")[0] in text
