import pytest

from fedvpa.evaluation.report.detail_tables import (
    controls_text,
    differences_text,
    policy_differences_text,
    samples_text,
)

pytestmark = pytest.mark.unit


def test_controls_stand_beside_what_is_expected_of_them(compared):
    rows = controls_text(compared).rows
    assert {row[2]: row[-1] for row in rows} == {"swapped z": "must fall", "prior mean z": "must be about global"}
    swapped = next(row for row in rows if row[:3] == ("11", "fedvpa_gp", "swapped z"))
    assert swapped[4].startswith("-0.5")


def test_a_star_marks_differences_that_survive_the_correction(compared):
    changed = {**compared, "differences": [{**compared["differences"][0], "p_holm": p} for p in (0.0004, 0.0499, 0.05)]}
    assert [row[-2] for row in differences_text(changed).rows] == ["< 0.001 *", "0.050 *", "0.050"]


def test_a_star_marks_differences_of_win_rates_that_survive_the_correction(policies):
    rows = [{**policies["policy_differences"][0], "p_holm": p} for p in (0.0004, 0.0499, 0.05)]
    assert [row[-2] for row in policy_differences_text({"policy_differences": rows}).rows] == [
        "< 0.001 *",
        "0.050 *",
        "0.050",
    ]


def test_answers_stand_beside_their_utilities(samples):
    text = samples_text(samples[0])
    assert text.header == ("policy", "answer", "harmless utility", "helpful utility")
    assert text.rows == (
        ("base", "no", "0.10", "-0.50"),
        ("z at 30%", "<b>first</b>\nsecond", "0.75", "1.25"),
    )
