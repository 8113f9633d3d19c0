"""What policy gradients train a client's policy on: its own prompts, samples of the policy, and their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedvpa.core.seeds import Label
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Text
from fedvpa.objectives.policy_gradient import rloo_advantages, whiten
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids
from fedvpa.policy.sampling import Sampling
from fedvpa.rewards.base import Score
from fedvpa.rewards.objectives import Objective

SAMPLED_AT_ONCE = 256
"""Samples that a policy draws at once. Chosen by us, as many as candidates by the bundled world's settings."""


@dataclass(frozen=True, repr=False)
class Prompts:
    """The prompts of one client, and what responses to them are scored by.

    Attributes:
        texts: The distinct prompts.
        ids: Their tokens.
        objectives: M rewards; higher is better.
    """

    texts: Sequence[Text]
    ids: Sequence[Ids]
    objectives: Sequence[Objective]

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(cls, policy: Policy, texts: Sequence[Text], objectives: Sequence[Objective]) -> Prompts:
        """Prompts of texts, each once, in their order.

        Raises:
            DataError: If a prompt has no token, or the chat template refuses it.
        """
        distinct = list(dict.fromkeys(texts))
        return cls(distinct, policy.tokenizer.prompts(distinct), objectives)


@dataclass(frozen=True, repr=False)
class Scored:
    """Samples of the current policy and what they are worth.

    Attributes:
        prompts: Tokens of the prompt of each sample; the samples of one prompt stand together.
        responses: Tokens of each sample.
        rewards: Mean reward under each objective, over the samples that have one; 0 if none has.
        scored: How many samples have a reward, by objective.
        advantages: Of each sample, by objective.
        varies: Whether the rewards of an objective differ at all; if not, its advantages are 0.
    """

    prompts: list[Ids]
    responses: list[Ids]
    rewards: Float[Tensor, " objectives"]
    scored: Float[Tensor, " objectives"]
    advantages: Float[Tensor, "objectives rows"]
    varies: Bool[Tensor, " objectives"]

    __repr__ = short_repr


def sample_and_score(
    policy: Policy, data: Prompts, rows: Sequence[int], completions: int, max_new_tokens: int, seed: int, *path: Label
) -> Scored:
    """Sample ``completions`` responses to each chosen prompt from the policy as it is, and score them.

    Args:
        policy: The policy.
        data: Prompts and objectives.
        rows: Which prompts.
        completions: G.
        max_new_tokens: Longest sample.
        seed: Names, with ``path``, the draws.
        *path: Labels.
    """
    chosen = [row for row in rows for _ in range(completions)]
    prompts = [data.ids[row] for row in chosen]
    sampling = Sampling(max_new_tokens=max_new_tokens, batch=SAMPLED_AT_ONCE)
    responses = policy.sample(prompts, None, sampling, seed, *path)
    items = [(data.texts[row], policy.tokenizer.text(ids)) for row, ids in zip(chosen, responses, strict=True)]
    scores = [reward_matrix(objective.score(items), completions) for objective in data.objectives]
    whitened = [whiten(filled) for filled, _ in scores]
    return Scored(
        prompts,
        responses,
        torch.stack([_mean(*score) for score in scores]),
        torch.stack([there.sum().float() for _, there in scores]),
        torch.stack([rloo_advantages(rewards).flatten() for rewards, _ in whitened]).float(),
        torch.tensor([varies for _, varies in whitened]),
    )


def reward_matrix(
    scores: Sequence[Score], completions: int
) -> tuple[Float[Tensor, "prompts completions"], Bool[Tensor, "prompts completions"]]:
    """Scores by prompt, and which of them are there.

    A missing score becomes the mean of its prompt's others, or of the batch where the prompt has none: the sample then
    counts as neither good nor bad.
    """
    values = torch.tensor(
        [float("nan") if isinstance(score, str) else score for score in scores], dtype=torch.float64
    ).view(-1, completions)
    there = ~values.isnan()
    everywhere = torch.where(there.any(), values.nanmean(), torch.zeros(()).double())
    means = torch.where(there.any(1), values.nanmean(1), everywhere)
    return torch.where(there, values, means[:, None]), there


def _mean(rewards: Tensor, there: Tensor) -> Tensor:
    return (rewards[there].sum() / there.sum().clamp(min=1)).float()
