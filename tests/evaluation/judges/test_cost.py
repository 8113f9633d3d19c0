import pytest

from evaluation.judges.endpoint import config
from fedvpa.evaluation.judges import pairwise
from fedvpa.evaluation.judges.base import Duel
from fedvpa.evaluation.judges.openai_compatible import OpenAICompatibleJudge


@pytest.mark.unit
def test_the_estimate_counts_calls_tokens_and_cost_without_calling(endpoint, monkeypatch):
    monkeypatch.setattr(pairwise, "SYSTEM_PROMPT", "s" * 401)
    monkeypatch.setattr(pairwise, "USER_PROMPT", "{rubric}{prompt}{a}{b}")
    settings = {"max_tokens": 11, "price_in": 3.0, "price_out": 5.0, "rubric": {"helpful": "r" * 30}}
    judge = OpenAICompatibleJudge(config(endpoint, **settings))
    duels = [Duel("p" * 7, "x" * 19, "y" * 13, "helpful"), Duel("p", "same", "same", "helpful")]
    estimate = judge.estimate(duels)
    each = (101 + 4) + (18 + 4)  # 401 and 30 + 7 + 19 + 13 = 69 characters, four a token, and four a message
    assert (estimate.calls, estimate.cached) == (2, 0)
    assert (estimate.tokens_in, estimate.tokens_out) == (2 * each, 22)
    assert estimate.cost == pytest.approx((2 * each * 3 + 22 * 5) / 1e6)
    assert endpoint.asked == []
    assert OpenAICompatibleJudge(config(endpoint, price_in=1.0)).estimate(duels).cost is None
