import json
from dataclasses import asdict

import pytest

from evaluation.policies import outcome
from fedvpa.core.errors import DataError
from fedvpa.evaluation.outcomes import load_outcomes, save_outcomes

pytestmark = pytest.mark.unit


def test_saving_and_loading_changes_nothing(tmp_path):
    outcomes = [
        outcome(0.5, prompt="a\u2028b", user="ü", seen=False),
        outcome(None, parsed=None, base_parsed=None),
        outcome(1, utility=-2, base_utility=0.25),
    ]
    save_outcomes(tmp_path / "outcomes.jsonl", outcomes)
    assert load_outcomes(tmp_path / "outcomes.jsonl") == outcomes


def test_the_gain_is_against_the_base_policy():
    assert outcome(utility=1.5, base_utility=2.0).gain == -0.5
    assert outcome(None).gain is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": 0.75}, "scores 0.75"),
        ({"score": True}, "score cannot be True"),
        ({"utility": None}, "only one of utility and base_utility"),
        ({"base_parsed": None}, "only one of parsed and base_parsed"),
        ({"base_utility": float("nan")}, "is worth 1.0 against nan"),
        ({"tokens": -1}, "is -1 tokens long"),
        ({"seen": False}, "unseen user without a name"),
        ({"user": "c1"}, "unknown key 'user'"),
    ],
)
def test_what_cannot_be_is_refused_with_its_row(tmp_path, change, message):
    path = tmp_path / "outcomes.jsonl"
    path.write_text(json.dumps(asdict(outcome())) + "\n" + json.dumps(asdict(outcome()) | change) + "\n")
    with pytest.raises(DataError, match=r"outcomes\.jsonl:2") as caught:
        load_outcomes(path)
    assert message in str(caught.value)
