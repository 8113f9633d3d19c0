import numpy as np
import pytest

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.core.seeds import numpy_generator
from fedvpa.evaluation.judges.base import Duel, Verdict
from fedvpa.evaluation.judges.world import WorldJudge
from fedvpa.rewards.world import utilities
from fedvpa.world.attributes import Attributes, attribute_grid
from fedvpa.world.grammar import render
from fedvpa.world.prompts import prompts
from fedvpa.world.users import features, find_utility

PROMPTS = prompts("test")
TIE = Verdict(0.5, "equal utility")


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
    verdicts = WorldJudge().compare(duels)
    assert verdicts == expected
    assert {verdict.score for verdict in verdicts} == {0.0, 0.5, 1.0}
    assert WorldJudge().compare([Duel(d.prompt, d.second, d.first, d.preference) for d in duels]) == [
        verdict if verdict.score == 0.5 else Verdict(1.0 - verdict.score) for verdict in verdicts
    ]


@pytest.mark.unit
def test_text_outside_the_grammar_loses_and_is_reported_as_such():
    prompt = PROMPTS[0]
    inside, outside = text(prompt, attribute_grid()[0]), "Colourless green ideas."
    judge = WorldJudge()
    assert judge.compare([Duel(prompt.text, inside, outside, "helpful")]) == [Verdict(1.0)]
    assert judge.compare([Duel(prompt.text, outside, "Nothing.", "helpful")]) == [TIE]
    values, parsed = utilities([(prompt.text, inside), (prompt.text, outside)], "helpful")
    assert parsed.tolist() == [True, False]
    assert values[1] == find_utility("helpful").worst(prompt.intent.risky) < values[0]
    assert values.dtype == np.float64


@pytest.mark.unit
def test_sums_that_only_differ_by_rounding_are_a_tie(monkeypatch):
    """0.1 + 0.2 is not 0.3 in floating point."""
    prompt = PROMPTS[0]
    values = iter([0.1 + 0.2, 0.3, 0.3 + 1e-8, 0.3])
    monkeypatch.setattr(type(find_utility("helpful")), "value", lambda *_: next(values))
    duel = Duel(prompt.text, text(prompt, attribute_grid()[0]), text(prompt, attribute_grid()[1]), "helpful")
    assert WorldJudge().compare([duel, duel]) == [TIE, Verdict(1.0)]


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
    assert [verdict.score for verdict in WorldJudge().compare(duels)] == [1.0, 0.0, 1.0]


@pytest.mark.unit
def test_wrong_input_is_named():
    prompt = PROMPTS[0].text
    with pytest.raises(ConfigError, match=r"no group 'helpfull'\. Did you mean 'helpful'\?"):
        WorldJudge().compare([Duel(prompt, "x", "y", "helpfull")])
    with pytest.raises(DataError, match="has no prompt 'Hello'"):
        WorldJudge().compare([Duel("Hello", "x", "y", "helpful")])
