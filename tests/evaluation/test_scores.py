import json
from dataclasses import asdict, replace

import pytest

from fedvpa.core.errors import DataError
from fedvpa.evaluation.scores import (
    ClientScore,
    control_name,
    control_of,
    item_name,
    load_scores,
    results_by_item,
    save_scores,
)

pytestmark = pytest.mark.unit

SCORE = ClientScore("fedvpa_gp", 7, 3, "ü", "helpful", True, 5.5, 11, 4, 13)


def test_a_tie_counts_one_half():
    assert SCORE.accuracy == 0.5
    assert SCORE.holdout_accuracy == 4 / 13
    assert ClientScore("local", 7, 3, "a", None, False, 2, 5).holdout_accuracy is None


def test_saving_and_loading_changes_nothing(tmp_path):
    scores = [SCORE, ClientScore("local", 7, 3, "a", None, False, 2, 5)]
    save_scores(tmp_path / "scores.jsonl", scores)
    assert load_scores(tmp_path / "scores.jsonl") == scores


def test_a_control_is_named_after_its_method():
    assert control_of(control_name("fedvpa_gp", "swapped_z")) == ("fedvpa_gp", "swapped_z")
    assert control_of("fedvpa_gp") == ("fedvpa_gp", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total": 0, "correct": 0}, "counts 0 pairs"),
        ({"correct": 12}, "correct = 12 of 11"),
        ({"correct": -1}, "correct = -1"),
        ({"correct": 2.25}, "a tie is one half"),
        ({"holdout_total": None}, "only one of"),
        ({"holdout_correct": 14}, "holdout_correct = 14 of 13"),
        ({"total": "11"}, "total cannot be '11'"),
        ({"seed": True}, "seed cannot be True"),
        ({"totals": 3}, "unknown key 'totals'. Did you mean 'total'"),
    ],
)
def test_what_cannot_be_is_refused_with_its_row(tmp_path, change, message):
    path = tmp_path / "scores.jsonl"
    path.write_text(json.dumps(asdict(SCORE)) + "\n" + json.dumps(asdict(SCORE) | change) + "\n")
    with pytest.raises(DataError, match=r"scores\.jsonl:2") as caught:
        load_scores(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(("line", "message"), [("{", "not JSON"), ("[1]", "not list"), ("{}", "missing method, n_cl")])
def test_a_line_that_is_no_score_is_refused(tmp_path, line, message):
    path = tmp_path / "scores.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        load_scores(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl"):
        load_scores(tmp_path / "none.jsonl")


def test_results_add_up_to_the_counts_or_are_refused():
    good = ClientScore("m", 2, 0, "a", None, True, 1.5, 3, results="1h 0", items="0a 0b")
    assert good.tested().values.tolist() == [0.75, 0.0]
    assert good.tested().counts.tolist() == [2, 1]
    for change in ({"correct": 2}, {"total": 4}, {"results": "1x 0"}, {"items": "0a"}, {"items": None}):
        with pytest.raises(DataError):
            replace(good, **change)
    assert replace(good, results=None, items=None).tested() is None


def test_results_by_item_put_the_pairs_of_an_item_together():
    assert results_by_item([1.0, 0.0, 0.5], ["b", "a", "b"]) == ("1h 0", "b a")
    assert item_name("ü") == item_name("ü") != item_name("u")
    assert len(item_name("anything")) == 16
