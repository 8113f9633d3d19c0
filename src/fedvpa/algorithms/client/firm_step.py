"""The local steps of FIRM: samples, one gradient per objective, weights λ, and a step along the mixture.

What differs between FIRM and its yardsticks is where λ comes from: a :data:`Rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.client.group_samples import Prompts, Scored, sample_and_score
from fedvpa.algorithms.firm_config import FirmConfig
from fedvpa.core.seeds import Label, numpy_generator
from fedvpa.core.short_repr import short_repr
from fedvpa.objectives.multi_objective import common_scale, gram, is_vertex, regularised_mgda
from fedvpa.objectives.policy_gradient import clipped_surrogate, kl_estimate, kl_surrogate
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Batch

Gradients = Float[Tensor, "objectives weights"]
"""One gradient per objective, over all trained weights side by side."""

Rule = Callable[[Gradients], Float[Tensor, " objectives"]]
"""Gradients of one step → λ."""


@dataclass(frozen=True, repr=False)
class PromptDraws:
    """The randomness of one client in one round.

    Attributes:
        rows: The prompts of each local step.
        seed: Names, with ``path``, the samples.
        path: Labels.
    """

    rows: tuple[tuple[int, ...], ...]
    seed: int
    path: tuple[Label, ...]

    __repr__ = short_repr


def draw_prompts(size: int, steps: int, prompts: int, seed: int, *path: Label) -> PromptDraws:
    """For each local step ``prompts`` of ``size`` prompts, none twice in a step; fewer where there are fewer."""
    rng = numpy_generator(seed, "prompts", *path)
    rows = tuple(tuple(rng.permutation(size)[:prompts].tolist()) for _ in range(steps if size else 0))
    return PromptDraws(rows, seed, ("samples", *path))


def mgda_rule(preference: Tensor, rho: float) -> Rule:
    """λ by regularised MGDA on the step's own gradients."""
    return lambda gradients: regularised_mgda(common_scale(gram(gradients)), preference, rho)


@dataclass(frozen=True, repr=False)
class LocalSteps:
    """What a client's local steps did.

    Attributes:
        weights: λ of each step, shape [steps, M].
        rewards: Mean reward of the samples of each step, by objective, shape [steps, M].
        kl: KL to the base policy of each step's samples, in nats, shape [steps].
        missing: Samples without a score, by objective.
        constant: Steps whose samples all have the same score, by objective.
    """

    weights: Float[Tensor, "steps objectives"]
    rewards: Float[Tensor, "steps objectives"]
    kl: Float[Tensor, " steps"]
    missing: Float[Tensor, " objectives"]
    constant: Float[Tensor, " objectives"]

    __repr__ = short_repr

    @classmethod
    def none(cls, objectives: int) -> LocalSteps:
        """Those of a client without prompts, as one step of zeros."""
        row, each = torch.zeros(1, objectives), torch.zeros(objectives)
        return cls(row, row, torch.zeros(1), each, each)

    @property
    def at_vertex(self) -> Float[Tensor, " steps"]:
        """1 for a step in which one objective has all the weight."""
        return torch.tensor([float(is_vertex(weights)) for weights in self.weights])


def local_steps(
    policy: Policy,
    data: Prompts,
    draws: PromptDraws,
    config: FirmConfig,
    rule: Rule | None,
    fixed: Float[Tensor, " objectives"],
) -> LocalSteps:
    """Take the local steps of one client; they move the trained weights of ``policy``.

    Args:
        policy: As the client received it; only weights that ask for a gradient move.
        data: The client's prompts, at least one.
        draws: From :func:`draw_prompts`.
        config: Of FIRM.
        rule: Where λ comes from; None for ``fixed`` throughout, which needs one backward pass in all.
        fixed: λ, where it does not come from a rule.
    """
    trainer, current = _Trainer(policy, config), fixed.double()
    weights, scored, divergence = list[Tensor](), list[Scored](), list[Tensor]()
    for step, rows in enumerate(draws.rows):
        samples = sample_step(policy, data, rows, config, draws, step)
        batch = GradientBatch(policy, samples, config.clip, config.micro_batch)
        for _ in range(config.updates):
            if rule is not None and step % config.lambda_every == 0:
                gradients, divergent = batch.gradients()
                current = rule(gradients)
                trainer.ascend(current.to(gradients) @ gradients - config.kl_weight * divergent)
            else:
                trainer.ascend(batch.mixed_gradient(current, config.kl_weight))
        weights.append(current)
        scored.append(samples)
        divergence.append(batch.kl)
    drawn = torch.tensor(float(sum(len(one.prompts) for one in scored)))
    return LocalSteps(
        torch.stack(weights).float(),
        torch.stack([one.rewards for one in scored]),
        torch.stack(divergence),
        drawn - torch.stack([one.scored for one in scored]).sum(0),
        torch.stack([(~one.varies).float() for one in scored]).sum(0),
    )


def sample_step(
    policy: Policy, data: Prompts, rows: Sequence[int], config: FirmConfig, draws: PromptDraws, step: int
) -> Scored:
    """The scored samples of one local step."""
    return sample_and_score(
        policy, data, rows, config.completions, config.max_new_tokens, draws.seed, *draws.path, step
    )


class GradientBatch:
    """Gradients of the surrogates on one set of samples, at the policy as it is when asked.

    Args:
        policy: The one that drew the samples; trained in place between two questions.
        samples: With their advantages.
        clip: Of the surrogates.
        micro_batch: Samples per forward and backward pass; None for all at once.
    """

    def __init__(self, policy: Policy, samples: Scored, clip: float, micro_batch: int | None) -> None:
        count = len(samples.prompts)
        size = micro_batch or count
        self._policy, self._clip, self._count = policy, clip, count
        self._parts = [
            policy.layout.rows(samples.prompts[start : start + size], samples.responses[start : start + size]).to(
                policy.device
            )
            for start in range(0, count, size)
        ]
        self._advantages = samples.advantages.to(policy.device).split(size, 1)
        with torch.no_grad(), policy.reference() as base:
            self._reference = [base(part, None).float() for part in self._parts]
        # Of the policy that drew the samples: known from the first forward passes, or from passes of their own.
        self._sampled: dict[int, Tensor] = {}

    @property
    def kl(self) -> Float[Tensor, ""]:
        """KL to the base policy of the policy that drew the samples, once a gradient was asked for."""
        parts = [
            kl_estimate(sampled, self._reference[place]) * len(sampled) / self._count
            for place, sampled in self._sampled.items()
        ]
        return torch.stack(parts).sum().cpu()

    def gradients(self) -> tuple[Gradients, Float[Tensor, " weights"]]:
        """The gradient of each objective's surrogate, and that of the KL: M + 1 backward passes, one forward pass."""
        found = self._gradients(lambda surrogates: surrogates)
        return found[:-1], found[-1]

    def mixed_gradient(self, weights: Float[Tensor, " objectives"], kl_weight: float) -> Float[Tensor, " weights"]:
        """The gradient of Σ λ_j L_j − κ·KL, by one backward pass."""
        factors = [*weights.tolist(), -kl_weight]
        mixed = self._gradients(
            lambda surrogates: [
                torch.stack([factor * one for factor, one in zip(factors, surrogates, strict=True)]).sum()
            ]
        )
        return mixed[0]

    def _gradients(self, chosen: Callable[[list[Tensor]], list[Tensor]]) -> Float[Tensor, "chosen weights"]:
        weights, total = list(self._policy.trained().values()), torch.zeros(())
        self._policy.train()  # gradient checkpointing asks for it; there is no dropout
        for place, part in enumerate(self._parts):
            values, rows = chosen(self._surrogates(place, part)), []
            for row, value in enumerate(values):
                own = torch.autograd.grad(
                    value * (len(part.ids) / self._count), weights, retain_graph=row + 1 < len(values)
                )
                rows.append(torch.cat([leaf.float().flatten() for leaf in own]))
            total = total.to(rows[0].device) + torch.stack(rows)
        self._policy.eval()
        return total

    def _surrogates(self, place: int, part: Batch) -> list[Tensor]:
        """Each objective's surrogate, and the KL's, of one micro-batch."""
        log_probs = self._policy(part, None).float()
        sampled = self._sampled.setdefault(place, log_probs.detach())
        own = [clipped_surrogate(log_probs, sampled, advantages, self._clip) for advantages in self._advantages[place]]
        return [*own, kl_surrogate(log_probs, self._reference[place])]


class _Trainer:
    """An optimiser, fresh for one client and round, that goes up a gradient."""

    def __init__(self, policy: Policy, config: FirmConfig) -> None:
        self._weights = list(policy.trained().values())
        self._clip = config.clip_norm
        if config.optimizer == "sgd":
            self._optimiser: torch.optim.Optimizer = torch.optim.SGD(self._weights, lr=config.lr)
        else:
            self._optimiser = torch.optim.AdamW(self._weights, lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0)

    def ascend(self, gradient: Float[Tensor, " weights"]) -> None:
        """One step; a gradient longer than ``clip_norm`` is shortened to it."""
        start = 0
        for weight in self._weights:
            own = gradient[start : start + weight.numel()].view_as(weight)
            weight.grad, start = -own.to(weight), start + weight.numel()
        torch.nn.utils.clip_grad_norm_(self._weights, self._clip)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
