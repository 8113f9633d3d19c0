"""Pairs: every user has a stream of their own, and prompts stay in their pool."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.world.generate import generate_world, user_pairs
from fedvpa.world.grammar import Parsed, parse
from fedvpa.world.prompts import find_prompt, prompts
from fedvpa.world.users import find_population, make_users


@pytest.mark.unit
@pytest.mark.parametrize("population", ["two-groups", "four-groups", "continuous", "individuals"])
def test_more_users_or_pairs_change_nobody_elses_pairs(population: str) -> None:
    small, large = generate_world(population, 3, 5, 1), generate_world(population, 7, 5, 1)
    assert large[:15] == small
    longer = generate_world(population, 3, 11, 1)
    for user in range(3):
        assert longer[11 * user : 11 * user + 5] == small[5 * user : 5 * user + 5]
    alone = make_users(find_population(population), 3, 1)[2]
    assert user_pairs(alone, 5, 1) == small[10:]


@pytest.mark.unit
def test_seed_user_and_pool_each_give_other_pairs() -> None:
    base = generate_world("two-groups", 3, 5, 1)
    assert base == generate_world("two-groups", 3, 5, 1)
    assert not set(base) & set(generate_world("two-groups", 3, 5, 2))
    assert len({pair.prompt for pair in base}) > 12
    assert not {p.prompt for p in base} & {p.prompt for p in generate_world("two-groups", 3, 5, 1, pool="test")}


@pytest.mark.unit
@pytest.mark.parametrize("pool", ["train", "validation", "test"])
def test_prompts_stay_in_their_pool_and_half_are_risky(pool: Any) -> None:
    pairs = generate_world("two-groups", 2, 401, 5, pool=pool)
    assert {pair.prompt for pair in pairs} <= {prompt.text for prompt in prompts(pool)}
    risky = sum(find_prompt(pair.prompt).intent.risky for pair in pairs) / len(pairs)
    assert risky == pytest.approx(0.5, abs=0.07)


@pytest.mark.unit
def test_responses_are_in_the_grammar_on_topic_and_different() -> None:
    seen: Counter[str] = Counter()
    for pair in generate_world("four-groups", 5, 53, 2):
        chosen, rejected = (parse(pair.prompt, text) for text in (pair.chosen, pair.rejected))
        assert isinstance(chosen, Parsed)
        assert isinstance(rejected, Parsed)
        assert chosen.attributes.off_topic == rejected.attributes.off_topic == 0
        assert chosen.attributes != rejected.attributes
        seen[pair.group] += 1
    assert seen == {"thorough": 106, "cautious": 53, "brief": 53, "friendly": 53}


@pytest.mark.unit
@pytest.mark.parametrize(
    "change",
    [
        {"population": "three-groups"},
        {"users": 0},
        {"pairs_per_user": 0},
        {"temperature": -1.0},
        {"flip": 0.7},
        {"pool": "dev"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_wrong_input_is_an_error(change: dict[str, Any]) -> None:
    given: dict[str, Any] = {"population": "two-groups", "users": 2, "pairs_per_user": 3, "seed": 0} | change
    with pytest.raises(ConfigError):
        generate_world(**given)
