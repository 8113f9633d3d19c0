"""The exact utility of a group as what orders candidates, in place of a selector: what the best labels would reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.alignment.candidates import Candidates
from fedvpa.alignment.label_sources import exact_reward
from fedvpa.alignment.latents import Latents
from fedvpa.alignment.preferences import PairMargins
from fedvpa.alignment.setup import Labeller
from fedvpa.alignment.stage1 import Stage1
from fedvpa.alignment.stopping import ValidationMargins
from fedvpa.core.errors import ConfigError
from fedvpa.data.schema import Text
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids
from fedvpa.rewards.base import ExactReward


def exact_labeller(stage: Stage1, policy: Policy, group: str, texts: Sequence[Text]) -> Labeller:
    """What labels pairs and validates by a group's exact utility.

    Args:
        stage: The first stage, whose judge knows what a response is worth.
        policy: Whose tokens candidates are.
        group: The true group.
        texts: Every prompt that candidates may have.

    Raises:
        ConfigError: If the judge of the run is not exact.
    """
    reward = exact_reward(stage)
    if reward is None:
        raise ConfigError(
            "Exact labels need a judge that knows what a response is worth to each group.",
            fix="Set policy.judging.judge=styles for the users of fedvpa simulate; the bundled world has its own.",
            where="configuration key 'policy.judging.judge'",
        )
    known = Utilities(reward, policy, group, texts)
    return Labeller(known.margins, known.over_base)


class Utilities:
    """What responses, given as tokens, are worth to one group.

    Args:
        reward: Knows it.
        policy: Whose tokens they are.
        group: The group.
        texts: The prompts.
    """

    def __init__(self, reward: ExactReward, policy: Policy, group: str, texts: Sequence[Text]) -> None:
        self._reward, self._policy, self._group = reward, policy, group
        self._texts = {_key(ids): text for ids, text in zip(policy.tokenizer.prompts(texts), texts, strict=True)}

    def margins(self, candidates: Candidates, latents: Latents) -> PairMargins:
        """u(first) − u(second) of all pairs of candidates of a prompt, for each of its latents, which are not read."""
        prompts, count = candidates.distinct.shape
        per_prompt = len(latents.z) // prompts
        worth = self._of(candidates.prompts, candidates.responses).repeat_interleave(per_prompt, 0)
        first, second = (torch.from_numpy(each) for each in np.triu_indices(count, 1))
        return PairMargins(first, second, worth[:, first] - worth[:, second])

    def over_base(self, base: Candidates) -> ValidationMargins:
        """The margins of one response to each prompt over the samples of the base policy."""
        theirs = self._of(base.prompts, base.responses)
        return lambda found: self._of(base.prompts, [[ids] for ids in found]) - theirs

    def _of(self, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]]) -> Float[Tensor, "p samples"]:
        items = [
            (self._texts[_key(prompt)], self._policy.tokenizer.text(ids))
            for prompt, group in zip(prompts, responses, strict=True)
            for ids in group
        ]
        values, _ = self._reward.utilities(items, self._group)
        return torch.from_numpy(np.asarray(values, np.float32)).view(len(prompts), -1)


def _key(ids: Ids) -> bytes:
    return np.ascontiguousarray(ids, np.int64).tobytes()
