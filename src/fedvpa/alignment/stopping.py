"""When to stop: validation prompts, and which weights are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.alignment.candidates import Candidates
from fedvpa.alignment.latents import Latents
from fedvpa.core.seeds import Label
from fedvpa.core.short_repr import short_repr
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids
from fedvpa.policy.sampling import Sampling
from fedvpa.selector.pairs import Pairs
from fedvpa.selector.selector import Selector

ValidationMargins = Callable[[list[Ids]], Float[Tensor, "p samples"]]
"""One response to each validation prompt → its margin over samples of the base policy, at the prompt's latent."""


def margins_over_base(
    selector: Selector, base: Candidates, latents: Latents, features: Callable[[list[Ids]], Float[Tensor, "p d"]]
) -> ValidationMargins:
    """Margins over all samples of the base policy, by a selector that reads features.

    Args:
        selector: The judge: validation knows no users but through it.
        base: The base policy's samples.
        latents: One per prompt.
        features: Raw features of one response to each prompt.
    """
    theirs = selector.scale(base.features.numpy())
    ones = torch.ones(theirs.shape[:2])

    def margins(found: list[Ids]) -> Float[Tensor, "p samples"]:
        own = selector.scale(features(found).numpy()).unsqueeze(1)
        return selector.margins(latents.posterior, Pairs(own.expand_as(theirs), theirs, ones, ones))

    return margins


@dataclass(frozen=True)
class ValidationResult:
    """The policy on the validation prompts after a step.

    Attributes:
        step: After how many steps.
        win_rate: Share of the base policy's samples that the judge, at the same z, puts below the policy's one.
        error: Standard error of ``win_rate`` over prompts.
        kl: Mean log π − log π_ref of the policy's own samples, in nats: an estimate of KL(π ‖ π_ref).
        tokens: Mean length of the samples.
        by_prototype: Prototype → win rate, KL and length.
    """

    step: int
    win_rate: float
    error: float
    kl: float
    tokens: float
    by_prototype: dict[str, dict[str, float]]


@dataclass(frozen=True, repr=False)
class Validation:
    """Prompts that choose the stopping step; neither training nor evaluation sees them.

    Attributes:
        prompts: Their tokens.
        latents: One per prompt.
        margins: The judge.
        with_z: Whether the policy sees z.
    """

    prompts: list[Ids]
    latents: Latents
    margins: ValidationMargins
    with_z: bool

    __repr__ = short_repr

    @torch.no_grad()
    def run(self, policy: Policy, config: PolicyConfig, seed: int, *path: Label) -> ValidationResult:
        """Sample the policy once per prompt and compare."""
        prompts, step = self.prompts, path[-1]
        z = self.latents.z if self.with_z else None
        limits = config.candidates
        sampling = Sampling(limits.temperature, limits.top_p, limits.max_new_tokens, limits.batch)
        # The same draws every time: results differ by the policy, not by luck.
        found = policy.sample(prompts, z, sampling, seed, "validation", *path[:-1])
        margin = self.margins(found)
        wins = ((margin > 0).float() + 0.5 * (margin == 0).float()).mean(1)
        reference, ours = (
            torch.tensor([float(part.sum()) for part in parts])
            for parts in (policy.reference_log_probs(prompts, found), policy.token_log_probs(prompts, found, z))
        )
        tokens = torch.tensor([float(len(ids)) for ids in found])
        parts = {"win_rate": wins, "kl": ours - reference, "tokens": tokens}
        by_prototype = {
            str(name): {key: float(value[self.latents.prototype == name].mean()) for key, value in parts.items()}
            for name in self.latents.prototype.unique().tolist()
        }
        error = float(wins.std()) / math.sqrt(len(wins)) if len(wins) > 1 else 0.0
        means = {key: float(value.mean()) for key, value in parts.items()}
        return ValidationResult(int(step), means["win_rate"], error, means["kl"], means["tokens"], by_prototype)


@dataclass(frozen=True, repr=False)
class BestWeights:
    """The weights to use.

    Attributes:
        result: Of these weights.
        weights: What was trained.
        highest: The highest win rate of all results so far.
    """

    result: ValidationResult
    weights: Mapping[str, Tensor]
    highest: float

    __repr__ = short_repr


def replaces_best(new: ValidationResult, best: BestWeights | None) -> bool:
    """Whether the weights of a later result replace the best ones.

    They do unless the policy now wins less often than the best one by more than the standard error.

    One standard error (Breiman et al., 1984) in favour of the later one, whose learning rate has come further down: on
    eighty prompts, results differ by luck as much as by the policy.
    """
    return best is None or new.win_rate >= best.highest - new.error
