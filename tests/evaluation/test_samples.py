import pytest

from evaluation.policies import outcome
from fedvpa.core.errors import DataError
from fedvpa.evaluation.samples import side_by_side

pytestmark = pytest.mark.unit


def test_answers_stand_side_by_side_after_the_base_policys():
    def at(step, helpful, harmless):
        return [
            outcome(1.0, response=f"at {step}", utility=worth, base_utility=base, preference=name, seed=seed, user=user)
            for name, worth, base in (("helpful", helpful, 0.5), ("harmless", harmless, 0.25))
            for seed, user in ((1, "u"), (0, "v"), (0, "u"))
        ]

    (sample,) = side_by_side({"z at 0%": at(0, 2, 1), "z at 100%": at(1, 1, 3)}, ["p"])
    assert [(answer.label, answer.text, answer.utilities) for answer in sample.answers] == [
        ("base", "no", {"helpful": 0.5, "harmless": 0.25}),
        ("z at 0%", "at 0", {"helpful": 2, "harmless": 1}),
        ("z at 100%", "at 1", {"helpful": 1, "harmless": 3}),
    ]
    with pytest.raises(DataError, match="'q' has no answer of 'z at 0%'"):
        side_by_side({"z at 0%": at(0, 2, 1)}, ["q"])


def test_a_sample_becomes_plain_json():
    (sample,) = side_by_side({"z": [outcome(response="at z", utility=1.5, base_utility=0.5)]}, ["p"])
    assert sample.to_dict() == {
        "prompt": "p",
        "answers": [
            {"label": "base", "text": "no", "utilities": {"helpful": 0.5}},
            {"label": "z", "text": "at z", "utilities": {"helpful": 1.5}},
        ],
    }
