"""When to stop: validation prompts, and which weights are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fedvpa.alignment.candidates import Candidates
from fedvpa.alignment.guard import divergences, language_of, refusals
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
        step: After how many steps; 0 for the base policy itself.
        win_rate: Share of the base policy's samples that the judge, at the same z, puts below the policy's one.
        error: Standard error of ``win_rate`` over prompts.
        kl: Mean log π − log π_ref of the policy's own samples, in nats: an estimate of KL(π ‖ π_ref).
        tokens: Mean length of the samples.
        by_prototype: Prototype → the same numbers of its prompts.
        language: See :class:`~fedvpa.alignment.guard.Language`.
        base_language: Of the base policy's own samples.
        distinct: Distinct-2 of the samples; see :func:`~fedvpa.alignment.guard.distinct_pairs`.
        base_distinct: Of the base policy's own samples, each cut as the policy's answer to the same prompt.
        base_tokens: Mean length of the base policy's samples.
        refused: Why the look is not admissible, in words; empty if it is.
    """

    step: int
    win_rate: float
    error: float
    kl: float
    tokens: float
    by_prototype: dict[str, dict[str, float]]
    language: float = 0.0
    base_language: float = 0.0
    distinct: float = 0.0
    base_distinct: float = 0.0
    base_tokens: float = 0.0
    refused: str = ""


@dataclass(frozen=True, repr=False)
class Validation:
    """Prompts that choose the stopping step; neither training nor evaluation sees them.

    Attributes:
        base: The base policy's samples of them.
        latents: One per prompt.
        margins: The judge.
        with_z: Whether the policy sees z.
    """

    base: Candidates
    latents: Latents
    margins: ValidationMargins
    with_z: bool

    __repr__ = short_repr

    @property
    def prompts(self) -> list[Ids]:
        """Their tokens."""
        return self.base.prompts

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
        said = policy.reference_log_probs(prompts, found)
        kl = divergences(policy.token_log_probs(prompts, found, z), said)
        return self._result(int(step), found, said, wins, kl, config)

    def start(self, config: PolicyConfig) -> ValidationResult:
        """The base policy itself, which a policy is before its first step: it wins one half of the time."""
        first = [group[0] for group in self.base.responses]
        said = [group[0] for group in self.base.reference]
        even = torch.full((len(first),), 0.5)
        return self._result(0, first, said, even, torch.zeros(len(first)), config)

    def _result(
        self,
        step: int,
        found: list[Ids],
        said: list[NDArray[np.float32]],
        wins: Tensor,
        kl: Tensor,
        config: PolicyConfig,
    ) -> ValidationResult:
        tokens = torch.tensor([float(len(ids)) for ids in found])
        parts = {"win_rate": wins, "kl": kl, "tokens": tokens}
        numbers = self.latents.prototype
        rows = {str(name): torch.where(numbers == name)[0].tolist() for name in numbers.unique().tolist()}
        everything = list(range(len(found)))
        spoken = {name: language_of(found, said, self.base, own) for name, own in {"": everything, **rows}.items()}
        means = {name: float(value.mean()) for name, value in parts.items()}
        by_prototype = {
            name: {key: float(value[own].mean()) for key, value in parts.items()} | asdict(spoken[name])
            for name, own in rows.items()
        }
        error = float(wins.std()) / math.sqrt(len(wins)) if len(wins) > 1 else 0.0
        refused = refusals(config.guard, {"": means["kl"], **{name: by_prototype[name]["kl"] for name in rows}}, spoken)
        return ValidationResult(
            step,
            means["win_rate"],
            error,
            means["kl"],
            means["tokens"],
            by_prototype,
            **asdict(spoken[""]),
            refused="; ".join(refused),
        )


@dataclass(frozen=True, repr=False)
class BestWeights:
    """The weights to use.

    Attributes:
        result: Of these weights.
        weights: What was trained.
        highest: The highest win rate of all admissible results so far.
        looks: How many there were, without that of step 0.
        admissible: How many of these were admissible.
        refused: Why the last one that was not admissible was none.
    """

    result: ValidationResult
    weights: Mapping[str, Tensor]
    highest: float
    looks: int = 0
    admissible: int = 0
    refused: str = ""

    __repr__ = short_repr

    def after(self, new: ValidationResult, weights: Callable[[], Mapping[str, Tensor]]) -> BestWeights:
        """The weights to use after one more look.

        Args:
            new: The look.
            weights: Gives those of the policy as it is now.
        """
        seen = replace(
            self,
            looks=self.looks + 1,
            admissible=self.admissible + (not new.refused),
            refused=new.refused or self.refused,
        )
        if new.refused:
            return seen
        highest = max(self.highest, new.win_rate)
        if not replaces_best(new, self):
            return replace(seen, highest=highest)
        return replace(seen, result=new, weights=weights(), highest=highest)

    @property
    def collapsed(self) -> bool:
        """Whether no policy since step 0 was admissible."""
        return self.looks > 0 and self.admissible == 0


def replaces_best(new: ValidationResult, best: BestWeights) -> bool:
    """Whether the weights of a later admissible result replace the best ones.

    The base policy, step 0, is replaced by a policy that wins more than half of the time, and by no other. Among
    policies the later one is taken unless it wins less often than the best one by more than the standard error.

    One standard error (Breiman et al., 1984) in favour of the later one, whose learning rate has come further down: on
    eighty prompts, results differ by luck as much as by the policy.
    """
    return new.win_rate > 0.5 and new.win_rate >= best.highest - new.error
