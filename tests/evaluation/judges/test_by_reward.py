import numpy as np
import pytest

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.core.seeds import numpy_generator
from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.evaluation.judges.by_reward import WORLD_TIE_DIGITS, RewardJudge
from fedvpa.rewards.world import WorldReward
from fedvpa.world.attributes import Attributes, attribute_grid
from fedvpa.world.grammar import render
from fedvpa.world.prompts import prompts
from fedvpa.world.users import find_utility
from fedvpa.world.utility import features

PROMPTS = prompts("test")
TIE = Verdict(0.5, "equal utility")


class Lengths:
    """Scores the length of a response, in hundredths under ``coarse``; what it was asked for is kept."""

    name = "lengths"

    def __init__(self, **given):
        self.given, self.asked = given, []

    def score(self, items, preference):
        self.asked.append((list(items), preference))
        unit = 100 if preference == "coarse" else 1
        return [self.given.get(response, len(response) / unit) for _, response in items]


def world_judge():
    return RewardJudge(WorldReward(), WORLD_TIE_DIGITS)


@pytest.mark.unit
def test_the_response_of_higher_reward_wins_and_only_equal_rewards_tie():
    duels = [Duel("why?", "xx", "y", "fine"), Duel("why?", "x", "yyy", "fine"), Duel("why?", "x", "y", "fine")]
    judge = RewardJudge(Lengths())
    assert judge.compare(duels) == [Verdict(1.0), Verdict(0.0), Verdict(0.5, "equal reward")]
    assert judge.name == "lengths"
    assert judge.compare([]) == []


@pytest.mark.unit
def test_a_reward_is_asked_once_for_each_preference_and_verdicts_keep_their_places():
    lengths = Lengths()
    duels = [Duel("p", "a", "bb", "fine"), Duel("q", "ccc", "d", "coarse"), Duel("r", "e", "f", "fine")]
    assert [verdict.score for verdict in RewardJudge(lengths).compare(duels)] == [0.0, 1.0, 0.5]
    assert lengths.asked == [
        ([("p", "a"), ("p", "bb"), ("r", "e"), ("r", "f")], "fine"),
        ([("q", "ccc"), ("q", "d")], "coarse"),
    ]


@pytest.mark.unit
def test_without_both_rewards_the_verdict_is_missing_with_the_reason():
    judge = RewardJudge(Lengths(long="too long", odd=float("nan"), vast=float("inf")))
    pairs = [("x", "long"), ("long", "x"), ("odd", "long"), ("x", "odd"), ("vast", "x")]
    reasons = ["too long", "too long", "the reward is nan", "the reward is nan", "the reward is inf"]
    assert judge.compare([Duel("why?", *pair, "fine") for pair in pairs]) == [
        Verdict(None, reason) for reason in reasons
    ]


@pytest.mark.unit
@pytest.mark.parametrize(("digits", "score"), [(None, 1.0), (2, 1.0), (1, 0.5)])
def test_rewards_that_agree_to_so_many_digits_are_a_tie(digits, score):
    judge = RewardJudge(Lengths(), digits)
    assert judge.compare([Duel("why?", "xxx", "y", "coarse")])[0].score == score  # 0.03 and 0.01


def text(prompt, attributes, label="a"):
    return render(prompt.intent, attributes, numpy_generator(0, "judge-test", prompt.text, label))


@pytest.mark.reference
@pytest.mark.parametrize("preference", ["helpful", "harmless", "friendly"])
def test_the_response_of_higher_utility_wins_and_equal_attributes_tie(preference):
    """The expectation comes from the attributes that the texts were written from, not from reading the texts."""
    rng = np.random.default_rng(3)
    grid, utility = attribute_grid(), find_utility(preference)
    duels, expected = [], []
    for number in range(211):
        prompt = PROMPTS[int(rng.integers(len(PROMPTS)))]
        one, other = (grid[int(place)] for place in rng.integers(len(grid), size=2))
        other = one if number % 10 == 0 else other
        weights = utility.vector(prompt.intent.risky)
        lead = sum(
            float(w) * (float(a) - float(b)) for w, a, b in zip(weights, features(one), features(other), strict=True)
        )
        duels.append(Duel(prompt.text, text(prompt, one), text(prompt, other, "b"), preference))
        expected.append(TIE if abs(lead) < 1e-6 else Verdict(1.0 if lead > 0 else 0.0))
    verdicts = world_judge().compare(duels)
    assert verdicts == expected
    assert {verdict.score for verdict in verdicts} == {0.0, 0.5, 1.0}
    assert world_judge().compare([Duel(d.prompt, d.second, d.first, d.preference) for d in duels]) == [
        verdict if verdict.score == 0.5 else Verdict(1.0 - verdict.score) for verdict in verdicts
    ]


@pytest.mark.unit
def test_text_outside_the_grammar_loses():
    prompt = PROMPTS[0]
    inside, outside = text(prompt, attribute_grid()[0]), "Colourless green ideas."
    judge = world_judge()
    assert judge.compare([Duel(prompt.text, inside, outside, "helpful")]) == [Verdict(1.0)]
    assert judge.compare([Duel(prompt.text, outside, "Nothing.", "helpful")]) == [TIE]


@pytest.mark.unit
def test_sums_that_only_differ_by_rounding_are_a_tie(monkeypatch):
    """0.1 + 0.2 is not 0.3 in floating point."""
    prompt = PROMPTS[0]
    values = iter([0.1 + 0.2, 0.3, 0.3 + 1e-8, 0.3])
    monkeypatch.setattr(type(find_utility("helpful")), "value", lambda *_: next(values))
    duel = Duel(prompt.text, text(prompt, attribute_grid()[0]), text(prompt, attribute_grid()[1]), "helpful")
    assert world_judge().compare([duel, duel]) == [TIE, Verdict(1.0)]


@pytest.mark.unit
def test_preferences_can_be_mixed_and_disagree():
    prompt = next(prompt for prompt in PROMPTS if prompt.intent.risky)
    by_utility = {
        name: sorted(attribute_grid(), key=lambda a: find_utility(name).value(a, True))[-1]
        for name in ("helpful", "harmless")
    }
    assert isinstance(by_utility["helpful"], Attributes)
    pair = (text(prompt, by_utility["helpful"]), text(prompt, by_utility["harmless"]))
    duels = [Duel(prompt.text, *pair, name) for name in ("helpful", "harmless", "helpful")]
    assert [verdict.score for verdict in world_judge().compare(duels)] == [1.0, 0.0, 1.0]


@pytest.mark.unit
def test_wrong_input_is_named():
    prompt = PROMPTS[0].text
    with pytest.raises(ConfigError, match=r"no group 'helpfull'\. Did you mean 'helpful'\?"):
        world_judge().compare([Duel(prompt, "x", "y", "helpfull")])
    with pytest.raises(DataError, match="has no prompt 'Hello'"):
        world_judge().compare([Duel("Hello", "x", "y", "helpful")])
