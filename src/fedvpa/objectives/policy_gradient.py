"""Policy gradients from groups of completions: advantages without a critic, the clipped surrogate, and the KL.

RLOO (Ahmadian et al., ACL 2024, arXiv 2402.14740) takes the mean reward of a prompt's other completions as the
baseline. The clipped surrogate is PPO's (Schulman et al., 2017, arXiv 1707.06347), token by token as in GRPO
(arXiv 2402.03300), but summed over tokens: on policy its gradient is then that of the expected reward.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Groups = Float[Tensor, "prompts completions"]
Tokens = Float[Tensor, "rows tokens"]


def whiten(rewards: Groups) -> tuple[Groups, bool]:
    """Rewards of one objective with mean 0 and standard deviation 1 over the batch, so that no objective wins by scale.

    Returns:
        The whitened rewards, and whether they vary at all; zeros where they do not.
    """
    centred = rewards - rewards.mean()
    spread = centred.square().mean().sqrt()
    # A constant batch has a spread of rounding errors, which must not be blown up to 1.
    if spread <= 1e-6 * rewards.abs().max().clamp(min=1e-30):
        return torch.zeros_like(rewards), False
    return centred / spread, True


def rloo_advantages(rewards: Groups) -> Groups:
    """A = R − mean of the other completions' R of the same prompt (RLOO); they sum to 0 in every group.

    Args:
        rewards: At least two completions per prompt.
    """
    count = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * (count / (count - 1))


def clipped_surrogate(
    log_probs: Tokens, sampled: Tokens, advantages: Float[Tensor, " rows"], clip: float
) -> Float[Tensor, ""]:
    """Mean over rows of Σ_t min(w·A, clip(w, 1 − c, 1 + c)·A), w = π(token) / π_sampled(token): to be maximised.

    Where ``log_probs`` equals ``sampled``, its gradient is the policy gradient mean_rows A·∇log π(y).

    Args:
        log_probs: Of each token under the policy, in nats; 0 where no token is scored.
        sampled: The same under the policy that drew the tokens, without a gradient.
        advantages: A, of each row.
        clip: c.
    """
    ratio = (log_probs - sampled).exp()
    gain = advantages[:, None] * ratio
    # A token that is not scored has a ratio of 1 without gradient: it adds a constant and moves nothing.
    return torch.minimum(gain, advantages[:, None] * ratio.clamp(1 - clip, 1 + clip)).sum(1).mean()


def kl_surrogate(log_probs: Tokens, reference: Tokens) -> Float[Tensor, ""]:
    """Mean over rows of Σ_t ½·(log π − log π_ref)², on samples of π: to be minimised.

    Its gradient has, on policy, the expectation Σ_t ∇KL(π_t ‖ π_ref,t): the KL of every token's distribution along the
    sampled path (Schulman, "Approximating KL divergence", 2020, has the estimator k2). The gradient of k3, which GRPO
    has, is that of the reversed KL.
    """
    return 0.5 * (log_probs - reference).square().sum(1).mean()


def kl_estimate(log_probs: Tokens, reference: Tokens) -> Float[Tensor, ""]:
    """KL(π ‖ π_ref) of a response in nats, never negative: k3, π_ref/π − 1 − log(π_ref/π), summed over tokens."""
    gap = reference - log_probs
    return (gap.exp() - 1 - gap).sum(1).mean()
