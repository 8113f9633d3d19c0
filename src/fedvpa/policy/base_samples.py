"""Samples of a language model as it is: several to each prompt, kept on disk as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from fedvpa.data.schema import Message, Text
from fedvpa.policy.partial_samples import PartialSamples
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids
from fedvpa.policy.sampling import Sampling
from fedvpa.policy.sampling_together import sample_together

Item = TypeVar("Item")


@dataclass(frozen=True)
class BaseSamples:
    """Samples as texts.

    Attributes:
        texts: For each prompt its samples.
        tokens: How many tokens each has.
        ended: Whether each ended before the longest response.
    """

    texts: list[list[str]]
    tokens: list[list[int]]
    ended: list[list[bool]]

    @property
    def ended_share(self) -> float:
        """The share of samples that ended before the longest response."""
        return float(np.mean([end for own in self.ended for end in own]))


def as_asked(prompts: Sequence[Text], *, chat: bool) -> list[Text]:
    """Different prompts as a model is asked.

    Args:
        prompts: As a file has them.
        chat: Whether the model has a chat template: a string is then one message of the user.
    """
    if not chat:
        return list(dict.fromkeys(prompts))
    messages = (((Message("user", prompt),) if isinstance(prompt, str) else prompt) for prompt in prompts)
    return list(dict.fromkeys(messages))


def sample_base(
    policy: Policy, prompts: Sequence[Text], count: int, sampling: Sampling, seed: int, kept: PartialSamples
) -> BaseSamples:
    """Draw responses of the reference policy to each prompt. Processes that help this one draw their share.

    Args:
        policy: Whose base answers.
        prompts: As it is asked.
        count: Responses to each.
        sampling: How they are drawn.
        seed: Names the draws.
        kept: Where responses are kept until all are there.

    Raises:
        ModelError: If a conversation meets a model without a chat template.
        DataError: If a prompt has no tokens, or the template refuses it.
    """
    repeated: list[Ids] = [ids for ids in policy.tokenizer.prompts(prompts) for _ in range(count)]
    drawn = sample_together(policy, repeated, None, sampling, seed, "simulate", reference=True, kept=kept)
    stops = policy.tokenizer.stops.tokens
    return BaseSamples(
        _grouped([policy.tokenizer.text(ids) for ids in drawn], count),
        _grouped([len(ids) for ids in drawn], count),
        _grouped([len(ids) < sampling.max_new_tokens or int(ids[-1]) in stops for ids in drawn], count),
    )


def _grouped(flat: list[Item], count: int) -> list[list[Item]]:
    return [flat[start : start + count] for start in range(0, len(flat), count)]
