"""Exact utilities as labels: differences of what responses are worth, under the group's own name."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fedvpa.alignment.exact_labels import Utilities, exact_labeller
from fedvpa.alignment.latents import Latents
from fedvpa.core.errors import ConfigError
from fedvpa.policy.rows import Ids
from fedvpa.rewards.base import ExactReward
from fedvpa.selector.posterior import single


class Sum(ExactReward):
    """A response is worth the sum of its numbers, the prompt's number counts double; ``least`` is its negative."""

    @property
    def name(self) -> str:
        return "sum"

    def utilities(self, items: Sequence[tuple[Any, str]], preference: str) -> tuple[np.ndarray, np.ndarray]:
        sign = {"most": 1.0, "least": -1.0}[preference]
        worth = [sign * (sum(map(int, response.split())) + 2 * int(prompt)) for prompt, response in items]
        return np.array(worth), np.ones(len(items), bool)


class Numbers:
    """Tokens are numbers, written apart."""

    def prompts(self, texts: Sequence[str]) -> list[Ids]:
        return [np.array([int(text)], np.int32) for text in texts]

    def text(self, ids: Ids) -> str:
        return " ".join(map(str, ids))


POLICY: Any = SimpleNamespace(tokenizer=Numbers())
RESPONSES = [[[1, 2], [5], [4]], [[0], [9, 1], [7]]]


def candidates() -> Any:
    responses = [[np.array(ids, np.int32) for ids in group] for group in RESPONSES]
    prompts = POLICY.tokenizer.prompts(["3", "8"])
    return SimpleNamespace(prompts=prompts, responses=responses, distinct=torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.unit
@pytest.mark.parametrize(("group", "sign"), [("most", 1.0), ("least", -1.0)])
def test_margins_are_differences_of_utilities_and_a_prompt_s_own(group: str, sign: float) -> None:
    known = Utilities(Sum(), POLICY, group, ["8", "3", "5"])
    z = torch.zeros(4, 2)
    found = known.margins(candidates(), Latents(single(z, z), z, torch.zeros(4, dtype=torch.long)))
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2)]
    expected = sign * torch.tensor([[-2.0, -1.0, 1.0], [-10.0, -7.0, 3.0]])
    assert torch.equal(found.margins, expected.repeat_interleave(2, 0))
    over = known.over_base(candidates())([np.array([6]), np.array([1, 1])])
    assert torch.equal(over, sign * torch.tensor([[3.0, 1.0, 2.0], [2.0, -8.0, -5.0]]))


@pytest.mark.unit
def test_a_judge_that_does_not_know_is_refused() -> None:
    judging = SimpleNamespace(judge="openai-compatible", settings={})
    stage: Any = SimpleNamespace(policy=SimpleNamespace(judging=judging))
    with pytest.raises(ConfigError, match="Exact labels need a judge that knows"):
        exact_labeller(stage, POLICY, "most", ["3"])
