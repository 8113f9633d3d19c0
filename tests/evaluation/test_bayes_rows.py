"""Methods beside whoever knows the true utilities: the way by hand, and labels whose noise is taken out."""

import pytest

from fedvpa.core.errors import DataError
from fedvpa.evaluation.bayes_rows import bayes_rows, without_noise
from fedvpa.evaluation.scores import RESULTS, ClientScore

pytestmark = pytest.mark.unit


def score(method, results, client="u0", seen=True, seed=0, items="aa bb"):
    marks = results.replace(" ", "")
    right = sum(RESULTS[mark] for mark in marks)
    return ClientScore(method, 2, seed, client, None, seen, right, len(marks), results=results, items=items)


def test_where_the_truth_is_wrong_the_label_was_noise():
    # Labels that the utilities explain, two that they do not (second and last), and a tie of the utilities.
    truth = [score("bayes", "10 1h0")]
    (found,) = without_noise([score("m", "11 h01")], truth)
    assert (found.results, found.correct, found.total, found.items) == ("10 h0", 1 + 0 + 0.5 + 0, 4, "aa bb")
    (itself,) = without_noise(truth, truth)
    assert itself.results == "11 11"
    (one,) = without_noise([score("m", "01 1")], [score("bayes", "hh 0")])
    assert (one.results, one.items, one.total) == ("0", "bb", 1)
    assert without_noise([score("m", "01 1")], [score("bayes", "hh h")]) == []


def test_other_pairs_cannot_be_compared():
    for truth in ([], [score("bayes", "11 100", items="aa cc")], [score("bayes", "111 10")]):
        with pytest.raises(DataError, match="other pairs under m than under bayes"):
            without_noise([score("m", "11 100")], truth)


def test_the_way_goes_from_the_better_of_global_and_local_to_bayes():
    results = {"global": ("10 00", "10 10"), "local": ("11 00", "10 10"), "m": ("11 10", "11 10")}
    scores = [
        *(score(name, one, f"u{row}") for name, both in results.items() for row, one in enumerate(both)),
        *(score("bayes", "11 11", f"u{row}") for row in range(2)),
        score("global", "11 10", "new", seen=False),
        score("local", "00 00", "new", seen=False),
        score("m", "11 10", "new", seen=False),
        score("bayes", "11 11", "new", seen=False),
        score("m:swapped_z", "00 00"),
    ]
    rows = {row.method: row for row in bayes_rows(scores, {2: (0.9, 0.8)})}
    assert list(rows) == ["global", "local", "m", "bayes"]
    # Seen: global 3 of 8, local 4 of 8, m 6 of 8, bayes 8 of 8.
    assert {row.base for row in rows.values()} == {"local"}
    assert rows["m"].way.value == pytest.approx((6 - 4) / (8 - 4))
    assert rows["global"].way.value == pytest.approx((3 - 4) / (8 - 4))
    assert (rows["local"].way.value, rows["bayes"].way.value) == (0, 1)
    assert rows["m"].noiseless.value == pytest.approx(6 / 8)
    # Unseen: the better one is another.
    assert {row.unseen_base for row in rows.values()} == {"global"}
    assert rows["m"].unseen_way.value == 0
    assert rows["local"].unseen_way.value == pytest.approx(-3)
    assert [(row.expected, row.unseen_expected) for row in rows.values()] == [(None, None)] * 3 + [(0.9, 0.8)]
    written = rows["m"].to_dict()
    assert written["way"]["mean"] == 0.5
    assert written["way"].keys() == {"mean", "ci95", "method_ci95"}


def test_without_bayes_there_is_no_row_and_without_yardsticks_no_way():
    assert bayes_rows([score("global", "11 10")], {}) == ()
    rows = bayes_rows([score("m", "11 10"), score("bayes", "11 11")], {})
    assert [(row.method, row.base, row.way, row.unseen_noiseless) for row in rows] == [
        ("m", None, None, None),
        ("bayes", None, None, None),
    ]
    assert rows[0].noiseless.value == pytest.approx(3 / 4)
