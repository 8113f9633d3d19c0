import pytest

from fedvpa.core.errors import DataError
from fedvpa.data.report import DataReport, Finding
from fedvpa.data.schema import Pair, PairTable

pytestmark = pytest.mark.unit

LONG = "longer than 256 tokens"
TABLE = PairTable(
    tuple(Pair("p", f"c{row}", "r", pair_id=f"p{row}", place=f"f:{row + 1}") for row in range(7)), DataReport(read=7)
)


def test_one_finding_for_each_effect_unit_and_reason_keeps_the_first_place():
    report = DataReport(read=11).add("tie", "f:2", unit="row").add(LONG, "f:3", effect="cut", unit="response", count=2)
    report = report.add("tie", "f:5", unit="row").add("tie", "f:6").add(LONG, "f:7", effect="cut", unit="prompt")
    assert report.findings == (
        Finding("left out", "row", "tie", 2, "f:2"),
        Finding("cut", "response", LONG, 2, "f:3"),
        Finding("left out", "pair", "tie", 1, "f:6"),
        Finding("cut", "prompt", LONG, 1, "f:7"),
    )
    assert (report.skipped, report.examples, report.used) == ({"tie": 3}, {"tie": "f:2"}, 8)


def test_adding_none_adds_nothing():
    assert DataReport().add("tie", "f:1", count=0) == DataReport()
    assert TABLE.noting([], "tie") is TABLE


def test_the_terminal_and_json_say_the_same():
    report = DataReport(read=1009).add("tie", "f:2", unit="row", count=1003).add(LONG, "", effect="cut", unit="prompt")
    assert report.lines() == [
        "data: 6 of 1,009 rows used",
        "  1,003 rows left out: tie (first: f:2)",
        "  1 prompt cut: longer than 256 tokens",
    ]
    assert report.to_dict() == {
        "read": 1009,
        "used": 6,
        "findings": [
            {"effect": "left out", "unit": "row", "reason": "tie", "count": 1003, "first": "f:2"},
            {"effect": "cut", "unit": "prompt", "reason": LONG, "count": 1, "first": ""},
        ],
    }
    assert DataReport(read=5).lines() == []


def test_under_strict_a_finding_is_an_error_with_its_place_unless_the_configuration_asks_for_it():
    strict = DataReport(strict=True)
    with pytest.raises(DataError, match=r"^f:2: tie\. Repair the row"):
        strict.add("tie", "f:2")
    with pytest.raises(DataError, match=r"^f:3: a response would be cut: longer than 256 tokens\."):
        strict.add(LONG, "f:3", effect="cut", unit="response")
    assert strict.add("tie", "f:2", count=0) == strict
    assert strict.add("too small", "f:2", unit="user", asked=True).findings[0].count == 1


def test_a_table_notes_what_happens_to_its_rows_and_keeps_them():
    noted = TABLE.noting([5, 3], "equal once cut").noting([2], LONG, effect="cut", unit="response", count=2)
    assert noted.pairs == TABLE.pairs
    assert [str(finding) for finding in noted.report.findings] == [
        "2 pairs left out: equal once cut (first: f:4)",
        f"2 responses cut: {LONG} (first: f:3)",
    ]
    assert noted.report.used == 5


def test_pairs_that_differ_only_in_their_place_are_equal():
    assert Pair("p", "c", "r", place="f:1") == Pair("p", "c", "r", place="g:7")
