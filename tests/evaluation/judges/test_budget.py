import pytest

from evaluation.judges.endpoint import DUELS, SAID, config, longer
from fedvpa.core.errors import ConfigError, JudgeError
from fedvpa.evaluation.judges.answer_cache import AnswerCache
from fedvpa.evaluation.judges.budget import CallBudget
from fedvpa.evaluation.judges.by_reward import RewardJudge
from fedvpa.evaluation.judges.make import make_judge
from fedvpa.evaluation.judges.openai_compatible import OpenAICompatibleJudge
from fedvpa.evaluation.judges.registry import JUDGES


@pytest.mark.unit
@pytest.mark.parametrize("kept", [True, False])
def test_calls_are_counted_up_to_the_limit(tmp_path, kept):
    path = tmp_path / "deep" / "verdicts.calls" if kept else None
    budget = CallBudget(3, path)
    for made in range(3):
        assert budget.made == made
        budget.take()
    for _ in range(2):
        with pytest.raises(JudgeError, match=r"called 3 times, .*max_calls allows 3.*raise policy\.judging\.max_calls"):
            budget.take()
    assert budget.made == 3
    assert CallBudget(None, path).made == (3 if kept else 0)  # another process goes on where this one is


@pytest.mark.unit
def test_retries_and_reminders_count_and_what_came_is_kept(endpoint, tmp_path):
    endpoint.react = lambda asked: longer(asked) if asked.turn else "Hm."
    judge = OpenAICompatibleJudge(config(endpoint, concurrency=1), tmp_path / "verdicts.jsonl")
    judge.limit_calls(7)
    with pytest.raises(JudgeError, match="called 7 times"):
        judge.compare(DUELS)
    assert len(endpoint.asked) == judge.budget.made == judge.usage.requests == 7
    assert len(AnswerCache(tmp_path / "verdicts.jsonl")) == 3
    again = OpenAICompatibleJudge(config(endpoint), tmp_path / "verdicts.jsonl")
    again.limit_calls(7)
    with pytest.raises(JudgeError, match="called 7 times"):
        again.compare(DUELS)
    assert len(endpoint.asked) == 7
    again.limit_calls(100)
    assert again.compare(DUELS) == SAID


@pytest.mark.unit
def test_the_limit_of_a_configuration_reaches_the_judge(endpoint, monkeypatch):
    judge = make_judge("openai-compatible", {"base_url": endpoint.url, "model": "m"}, None, 5)
    with pytest.raises(JudgeError, match="allows 5"):
        judge.compare(DUELS)
    assert len(endpoint.asked) == 5
    assert isinstance(make_judge("world", {}, None, 5), RewardJudge)  # calls nobody

    class Plain:
        name = "plain"

        def compare(self, duels):
            return []

    monkeypatch.setattr(JUDGES, "_registered", {**JUDGES.registered, "plain": lambda settings, cache: Plain()})
    with pytest.raises(ConfigError, match=r"'plain' does not count its calls"):
        make_judge("plain", {}, None, 5)
    assert make_judge("plain").name == "plain"
