"""The exact utility of a group as what orders candidates, in place of a selector: what the best labels would reach."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from fedvpa.alignment.candidates import Candidates
from fedvpa.alignment.label_sources import exact_reward, utilities_of
from fedvpa.alignment.latents import Latents
from fedvpa.alignment.preferences import PairMargins, every_pair
from fedvpa.alignment.setup import Labeller
from fedvpa.alignment.stage1 import Stage1
from fedvpa.alignment.stopping import ValidationMargins
from fedvpa.core.errors import ConfigError
from fedvpa.data.schema import Text
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids
from fedvpa.rewards.base import ExactReward


def needed(reward: ExactReward | None) -> ExactReward:
    """The exact reward that labels; raises ConfigError where the run has none."""
    if reward is None:
        raise ConfigError(
            "Exact labels need a judge that knows what a response is worth to each group.",
            fix="Set policy.judging.judge=styles for the users of fedvpa simulate; the bundled world has its own.",
            where="configuration key 'policy.judging.judge'",
        )
    return reward


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
    known = Utilities(needed(exact_reward(stage)), policy, group, texts)
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
        self._texts = {ids.tobytes(): text for ids, text in zip(policy.tokenizer.prompts(texts), texts, strict=True)}

    def margins(self, candidates: Candidates, latents: Latents) -> PairMargins:
        """u(first) − u(second) of all pairs of candidates of a prompt, for each of its latents, which are not read."""
        prompts, count = candidates.distinct.shape
        worth = self._of(candidates.prompts, candidates.responses).repeat_interleave(len(latents.z) // prompts, 0)
        first, second = every_pair(count)
        return PairMargins(first, second, worth[:, first] - worth[:, second])

    def over_base(self, base: Candidates) -> ValidationMargins:
        """The margins of one response to each prompt over the samples of the base policy."""
        theirs = self._of(base.prompts, base.responses)
        return lambda found: self._of(base.prompts, [[ids] for ids in found]) - theirs

    def _of(self, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]]) -> Float[Tensor, "p samples"]:
        texts = [self._texts[ids.tobytes()] for ids in prompts]
        return utilities_of(self._reward, self._policy, texts, responses, [self._group])[self._group].float()
