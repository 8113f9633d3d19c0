from dataclasses import replace

import pytest

from evaluation.policies import made_up, outcome
from evaluation.test_report import Page
from fedvpa.evaluation.report.page import Report, embedded, policy_differences_text, render_report, samples_text
from fedvpa.evaluation.report.policy_figures import win_rate_figure
from fedvpa.evaluation.report.tables import policy_summary_text, policy_table_text
from fedvpa.evaluation.statistics import Bootstrap
from fedvpa.evaluation.win_rates import policy_comparison, side_by_side

pytestmark = pytest.mark.unit

BOOTSTRAP = Bootstrap(resamples=2000)


@pytest.fixture(scope="module")
def outcomes():
    return made_up(sizes=(5, 7), prompts=29, unseen=("fedvpa_gp",))


@pytest.fixture(scope="module")
def compared(outcomes):
    return policy_comparison(outcomes, {("fedvpl", 7, 0): 2.0, ("fedvpl", 7, 1): 3.0}, bootstrap=BOOTSTRAP)


@pytest.fixture(scope="module")
def samples():
    rows = [
        outcome(preference="helpful", response="<b>first</b>\nsecond", utility=1.25, base_utility=-0.5),
        outcome(preference="harmless", response="<b>first</b>\nsecond", utility=0.75, base_utility=0.1),
    ]
    return side_by_side({"z at 30%": rows}, ["p"])


def cells(text, *start):
    (row,) = [row for row in text.rows if row[: len(start)] == start]
    return dict(zip(text.header, row, strict=True))


def test_the_table_has_a_row_per_method_preference_and_kind_of_users(compared):
    text = policy_summary_text(compared)
    assert len(text.rows) == 2 * 2 * (4 + 1)
    row = next(r for r in compared["policy_summary"] if (r["method"], r["n_clients"]) == ("fedvpl", 7))
    worse = row["worse_axis"]
    found = cells(text, "7", "fedvpl", f"{worse} ↓")
    low, high = row["preferences"][worse]["ci95"]
    assert found["win rate"] == f"{row['preferences'][worse]['win_rate']:.3f} [{low:.3f}, {high:.3f}]"
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
    text = policy_summary_text(policy_comparison(bare, {}, bootstrap=BOOTSTRAP))
    assert text.header == ("N", "method", "preference", "win rate", "same length")
    gone = [replace(bare[0], score=None), *bare[1:]]
    assert policy_summary_text(policy_comparison(gone, {}, bootstrap=BOOTSTRAP)).header[-1] == "missing"


def test_the_plain_table_fits_a_terminal(compared):
    text = policy_table_text(compared)
    assert max(map(len, text.splitlines())) <= 120
    assert "2000 resamples of prompts and users" in text
    for row in policy_summary_text(compared).rows:
        for cell in row:
            assert cell.split(" [")[0] in text


def test_the_report_says_everything_about_policies(compared, samples):
    figure = embedded("Win rates", win_rate_figure(compared, 7), "Against the base policy.")
    page = Page(render_report(Report("Two", policies=compared, policy_figures=[figure], samples=samples)))
    assert page.tags.count("img") == 1
    tables = (policy_summary_text(compared), policy_differences_text(compared), samples_text(samples[0]))
    for cell in (cell for table in tables for row in table.rows for cell in row):
        assert " ".join(cell.split()) in page.tokenizer
    for heading in ("Policies", "Win rates", "Paired differences of win rates", "Answers side by side"):
        assert heading in page.tokenizer
    assert "2000 resamples" in page.tokenizer
    assert "b" not in page.tags  # what a model wrote is shown, never obeyed


def test_a_report_without_policies_does_not_mention_them():
    page = Page(render_report(Report("One", notes=["Nothing."])))
    assert "Policies" not in page.tokenizer
    assert "side by side" not in page.tokenizer
    assert "table" not in page.tags


def test_answers_stand_beside_their_utilities(samples):
    text = samples_text(samples[0])
    assert text.header == ("policy", "answer", "harmless utility", "helpful utility")
    assert text.rows == (
        ("base", "no", "0.10", "-0.50"),
        ("z at 30%", "<b>first</b>\nsecond", "0.75", "1.25"),
    )


def test_a_star_marks_differences_that_survive_the_correction(compared):
    rows = [{**compared["policy_differences"][0], "p_holm": p} for p in (0.0004, 0.0499, 0.05)]
    assert [row[-1] for row in policy_differences_text({"policy_differences": rows}).rows] == [
        "< 0.001 *",
        "0.050 *",
        "0.050",
    ]
