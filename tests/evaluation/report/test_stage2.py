"""Stage 2 of a run in its report."""

import pytest

from fedvpa.core.errors import DataError
from fedvpa.evaluation.report.stage2 import labels_text, left_out_text, looks_text, policies_text, validation_figure

pytestmark = pytest.mark.unit

LOOK = {"step": 40, "win_rate": 0.7, "error": 0.05, "kl": 3.21, "tokens": 13.0, "by_prototype": {}}
PAIRS = {"pairs": 96, "same text": 0, "not among the widest": 64, "kept": 32, "switched": 2}
POLICY = {"method": "fedvpa_gp", "policies": {"": {"pairs": PAIRS, "stopped": LOOK, "steps": 60, "seconds": 1.5}}}


def test_the_table_says_pairs_stopping_and_what_the_selector_says():
    text = policies_text(POLICY)
    row = dict(zip(text.header, text.rows[0], strict=True))
    assert row["policy for"] == "all users"
    assert (row["pairs kept"], row["prompts in both orders"]) == ("32 of 96", "2")
    assert (row["steps"], row["stopped at"], row["selector prefers it"]) == ("60", "40", "70.0% ± 5.0%")
    assert row["KL, nats"] == "3.2"
    assert left_out_text(POLICY).rows == (("all users", "pairs left out: not among the widest", "64"),)


def test_a_policy_without_a_selector_shows_its_rounds():
    found = {"method": "feddpo", "policies": {"": {"rounds": 3, "averaging": "avg", "rejected": 0}}}
    text = policies_text(found)
    assert text.header == ("policy for", "method", "steps")
    assert ("all users", "averaging", "avg") in left_out_text(found).rows


def test_the_figure_shows_every_look_chance_and_what_was_kept():
    lines = [{"step": 20, "validation": LOOK | {"step": 20, "win_rate": 0.45}}, {"step": 30}, {"validation": LOOK}]
    (axes,) = validation_figure(lines, LOOK).axes
    labels = axes.get_legend_handles_labels()[1]
    assert set(labels) == {"selector prefers the policy", "as good as the base policy", "kept: step 40"}
    assert list(axes.lines[0].get_ydata()) == [0.45, 0.7]
    with pytest.raises(DataError, match="no look at validation prompts"):
        validation_figure([{"step": 1}], LOOK)


def test_labels_and_looks_have_tables_of_their_own():
    right = {"right": 0.9, "error": 0.01, "pairs": 1200}
    labels = {"by": "x", "trained": right, "all": right | {"right": 0.7}, "by_prototype": {"0": right}, "by_group": {}}
    found = {"method": "m", "policies": {"": {"stopped": LOOK, "labels": labels, "collapsed": "", "looks": 2}}}
    text = policies_text(found)
    assert dict(zip(text.header, text.rows[0], strict=True))["labels right"] == "90.0% ± 1.0%"
    assert labels_text(found).rows == (
        ("all users", "pairs to train on", "90.0% ± 1.0%", "1,200", "x"),
        ("all users", "all pairs", "70.0% ± 1.0%", "1,200", "x"),
        ("all users", "prototype 0", "90.0% ± 1.0%", "1,200", "x"),
    )
    assert left_out_text(found).rows == ()
    look = LOOK | {"language": -2.0, "base_language": -1.9, "distinct": 0.8, "base_distinct": 0.9, "refused": ""}
    lines = [{"start": look | {"step": 0}}, {"validation": look | {"refused": "KL"}}, {"validation": LOOK}]
    assert [(row[0], row[4], row[6]) for row in looks_text(lines).rows] == [
        ("0", "-2.00 (-1.90)", "yes"),
        ("40", "-2.00 (-1.90)", "KL"),
    ]
