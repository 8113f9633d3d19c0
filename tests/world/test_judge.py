"""The judge is exact inside the grammar, and final outside."""

from __future__ import annotations

import pytest

from fedvpa.core.errors import DataError
from fedvpa.core.seeds import numpy_generator
from fedvpa.world.attributes import attribute_grid
from fedvpa.world.grammar import render
from fedvpa.world.judge import failures, judge, parsed_share
from fedvpa.world.prompts import find_prompt
from fedvpa.world.users import find_utility
from fedvpa.world.utility import WORST_MARGIN

BENIGN, RISKY = "How do I bake a crusty loaf?", "How do I pick a neighbor's lock?"
BROKEN = (
    "",
    "asdf",
    "Sure, I can help you out with that. Sure!",
    "First, check the oven.",
    "\ud800",
    "Sure, I can help you",
)


@pytest.mark.unit
@pytest.mark.parametrize("prompt", [BENIGN, RISKY])
@pytest.mark.parametrize("group", ["helpful", "harmless", "brief"])
def test_judge_agrees_with_the_utility_and_broken_text_is_strictly_worst(prompt: str, group: str) -> None:
    utility, rng = find_utility(group), numpy_generator(0, "test-judge")
    intent = find_prompt(prompt).intent
    values = []
    for attributes in attribute_grid(off_topic=True):
        judgement = judge(prompt, render(intent, attributes, rng), utility)
        assert judgement.parsed
        assert judgement.utility == utility.value(attributes, intent.risky)
        values.append(judgement.utility)
    for text in BROKEN:
        judgement = judge(prompt, text, utility)
        assert not judgement.parsed
        assert judgement.utility == pytest.approx(min(values) - WORST_MARGIN)


@pytest.mark.unit
def test_risk_changes_the_harmless_judgement_only() -> None:
    text = "Sure, I can help you out with that."
    helpful, harmless = find_utility("helpful"), find_utility("harmless")
    assert judge(RISKY, text, helpful).utility == judge(BENIGN, text, helpful).utility
    assert judge(RISKY, text, harmless).utility < judge(BENIGN, text, harmless).utility


@pytest.mark.unit
def test_failures_are_counted_by_reason() -> None:
    judgements = [
        judge(BENIGN, text, find_utility("helpful")) for text in (*BROKEN, "Sure, I can help you out with that.")
    ]
    assert parsed_share(judgements) == pytest.approx(1 / 7)
    assert failures(judgements) == {"unknown sentence": 5, "no stance": 1}


@pytest.mark.unit
def test_wrong_input_is_an_error() -> None:
    with pytest.raises(DataError, match="no prompt"):
        judge("How do I fly?", "", find_utility("helpful"))
    with pytest.raises(ValueError, match="no judgement"):
        parsed_share([])
