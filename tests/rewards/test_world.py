import numpy as np
import pytest

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.core.seeds import numpy_generator
from fedvpa.rewards.base import ExactReward
from fedvpa.rewards.world import WorldReward, make_world_reward
from fedvpa.world.attributes import attribute_grid
from fedvpa.world.grammar import render
from fedvpa.world.prompts import prompts
from fedvpa.world.users import find_utility

PROMPT = prompts("test")[0]
INSIDE = render(PROMPT.intent, attribute_grid()[0], numpy_generator(0, "reward-test"))
ITEMS = [(PROMPT.text, INSIDE), (PROMPT.text, "Colourless green ideas.")]


@pytest.mark.unit
def test_text_outside_the_grammar_is_worth_the_least_and_reported_as_such():
    values, parsed = WorldReward().utilities(ITEMS, "helpful")
    assert parsed.tolist() == [True, False]
    assert values[1] == find_utility("helpful").worst(PROMPT.intent.risky) < values[0]
    assert values.dtype == np.float64


@pytest.mark.unit
@pytest.mark.parametrize("preference", ["helpful", "harmless"])
def test_scores_are_the_utilities_of_the_attributes(preference):
    utility = find_utility(preference)
    risky = PROMPT.intent.risky
    found = WorldReward().score(ITEMS, preference)
    assert found == [utility.value(attribute_grid()[0], risky), utility.worst(risky)]
    assert all(type(score) is float for score in found)
    assert WorldReward().score([], preference) == []


@pytest.mark.unit
def test_it_is_exact_and_has_a_name_and_no_settings():
    assert isinstance(make_world_reward({}), ExactReward)
    assert make_world_reward({}).name == "world"
    with pytest.raises(ConfigError, match="takes no settings, but was given seed, size"):
        make_world_reward({"size": 3, "seed": 1})


@pytest.mark.unit
def test_wrong_input_is_named():
    with pytest.raises(ConfigError, match=r"no group 'helpfull'\. Did you mean 'helpful'\?"):
        WorldReward().score(ITEMS, "helpfull")
    with pytest.raises(DataError, match="has no prompt 'Hello'"):
        WorldReward().score([("Hello", "x")], "helpful")
