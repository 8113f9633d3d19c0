import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.core.seeds import numpy_generator
from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.evaluation.judges.by_reward import RewardJudge
from fedvpa.evaluation.judges.make import make_judge
from fedvpa.evaluation.judges.openai_compatible import OpenAICompatibleJudge
from fedvpa.evaluation.judges.registry import JUDGES
from fedvpa.rewards.registry import REWARDS
from fedvpa.rewards.reward_model import RewardModelReward
from fedvpa.rewards.world import WorldReward
from fedvpa.world.attributes import attribute_grid
from fedvpa.world.grammar import render
from fedvpa.world.prompts import prompts
from fedvpa.world.users import find_utility

DUELS = [Duel("why?", "xx", "y", "helpful"), Duel("why?", "x", "yyy", "helpful")]


@pytest.fixture
def registered(monkeypatch):
    """Registers for one test only."""

    def register(registry, name, entry):
        monkeypatch.setattr(registry, "_registered", {**registry.registered, name: entry})
        assert name in registry.names()

    return register


class First:
    """Always prefers the first response."""

    name = "first"

    def __init__(self, settings, cache):
        self.settings, self.cache = settings, cache

    def compare(self, duels):
        return [Verdict(1.0)] * len(duels)


class Brevity:
    name = "brevity"

    def __init__(self, settings):
        self.sign = -settings.get("weight", 1)

    def score(self, items, preference):
        return [float(self.sign * len(response)) for _, response in items]


@pytest.mark.unit
def test_a_registered_judge_is_made_by_its_name_with_settings_and_cache(registered, tmp_path):
    registered(JUDGES, "first", First)
    judge = make_judge("first", {"seed": 3}, tmp_path / "verdicts.jsonl")
    assert judge.compare(DUELS) == [Verdict(1.0)] * 2
    assert (judge.settings, judge.cache) == ({"seed": 3}, tmp_path / "verdicts.jsonl")
    assert make_judge("first").settings == {}


@pytest.mark.unit
def test_a_registered_reward_is_judged_by_under_its_name(registered):
    registered(REWARDS, "brevity", Brevity)
    judge = make_judge("brevity")
    assert judge.name == "brevity"
    assert judge.compare(DUELS) == [Verdict(0.0), Verdict(1.0)]
    assert make_judge("brevity", {"weight": -2}).compare(DUELS) == [Verdict(1.0), Verdict(0.0)]


@pytest.mark.unit
def test_an_unknown_name_lists_judges_and_rewards_and_says_how_to_add_one(registered):
    registered(JUDGES, "first", First)
    registered(REWARDS, "brevity", Brevity)
    with pytest.raises(ConfigError) as raised:
        make_judge("qqq")
    assert "Known: brevity, first, held-out, openai-compatible, reward-model, styles, world." in str(raised.value)
    assert "fedvpa.register('judge', 'qqq', …)" in str(raised.value)
    assert "'fedvpa.judges' or 'fedvpa.rewards'" in str(raised.value)


@pytest.mark.unit
def test_the_worlds_judge_ties_sums_that_only_differ_by_rounding(monkeypatch):
    prompt, rng = prompts("test")[0], numpy_generator(0, "make-test")
    values = iter([0.1 + 0.2, 0.3])
    monkeypatch.setattr(type(find_utility("helpful")), "value", lambda *_: next(values))
    texts = [render(prompt.intent, attributes, rng) for attributes in attribute_grid()[:2]]
    assert make_judge("world").compare([Duel(prompt.text, *texts, "helpful")]) == [Verdict(0.5, "equal utility")]


@pytest.mark.unit
def test_judges_are_made_by_kind(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    endpoint = {"base_url": "http://localhost:1/v1", "model": "big"}
    by_utility, by_model = make_judge("world"), make_judge("reward-model", {"models": {"helpful": "folder"}})
    assert isinstance(by_utility, RewardJudge)
    assert isinstance(by_utility.reward, WorldReward)
    assert isinstance(by_model, RewardJudge)
    assert isinstance(by_model.reward, RewardModelReward)
    assert isinstance(make_judge("openai-compatible", endpoint), OpenAICompatibleJudge)
    names = [by_utility.name, by_model.name, make_judge("openai-compatible", endpoint).name]
    assert names == ["world", "reward-model", "big"]
    with pytest.raises(ConfigError, match=r"no judge of the kind 'word'. Did you mean 'world'\?"):
        make_judge("word")
    with pytest.raises(ConfigError, match="takes no settings, but was given seed"):
        make_judge("world", {"seed": 1})
    with pytest.raises(ConfigError, match=r"'policy.judging.settings.modell': is not known\. Did you mean 'model'\?"):
        make_judge("openai-compatible", {**endpoint, "modell": "x"})
