import pytest

from fedvpa.evaluation.judges.answer_cache import Answer, AnswerCache
from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.evaluation.judges.endpoint_config import EndpointConfig
from fedvpa.evaluation.judges.pairwise import all_questions, both_orders, read_verdict

CONFIG = EndpointConfig(base_url="http://localhost:8000/v1", model="m", api_key_env="", extra_body={"seed": 1})
DUEL = Duel("why?", "x", "yy", "helpful")


@pytest.mark.unit
def test_both_orders_are_asked_about_and_identical_responses_are_not():
    forward, backward = both_orders(DUEL, CONFIG)
    assert "<response_A>\nx\n</response_A>\n\n<response_B>\nyy\n" in forward.messages[1]["content"]
    assert "<response_A>\nyy\n</response_A>\n\n<response_B>\nx\n" in backward.messages[1]["content"]
    swapped, same = Duel("why?", "yy", "x", "helpful"), Duel("why?", "x", "x", "helpful")
    assert both_orders(swapped, CONFIG) == (backward, forward)
    assert both_orders(same, CONFIG) is None
    assert all_questions([DUEL, same, swapped, DUEL], CONFIG) == [forward, backward]


@pytest.mark.unit
def test_keys_stay_what_they_are_in_caches_on_disk():
    """Another key would ask an endpoint again, and pay again, for answers that are there."""
    forward, backward = both_orders(DUEL, CONFIG)
    assert forward.key == "fa4fef4a757e59826b1df3b04f8ed648c943701d742eb50f5f0b1d453f178a42"
    assert backward.key == "de84e02db8a4c421c33ff6a5e2cb906b8f2151619db9131522c8f217b3b26181"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("letters", "verdict"),
    [
        ("AB", Verdict(1.0, first_seat=0.5)),
        ("BA", Verdict(0.0, first_seat=0.5)),
        ("AA", Verdict(0.5, "A in both orders", flipped=True, first_seat=1.0)),
        ("BB", Verdict(0.5, "B in both orders", flipped=True, first_seat=0.0)),
        ("-B", Verdict(None, "reason 0")),
        ("A-", Verdict(None, "reason 1")),
        ("--", Verdict(None, "reason 0")),
    ],
)
def test_the_answers_of_both_orders_make_one_verdict(letters, verdict):
    answers, failures = AnswerCache(), {}
    for number, (letter, question) in enumerate(zip(letters, both_orders(DUEL, CONFIG), strict=True)):
        if letter == "-":
            failures[question.key] = f"reason {number}"
        else:
            answers.add(Answer(question.key, letter, letter))
    assert read_verdict(DUEL, CONFIG, answers, failures) == verdict
    same = Duel("why?", "x", "x", "helpful")
    assert read_verdict(same, CONFIG, answers, failures) == Verdict(0.5, "identical responses")
