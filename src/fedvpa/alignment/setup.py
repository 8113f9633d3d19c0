"""Everything that the training of one policy needs, put together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms.registry import make
from fedvpa.alignment.candidates import (
    Candidates,
    candidates_key,
    features_of,
    load_or_make,
    pair_candidates,
    sample_candidates,
)
from fedvpa.alignment.latents import Latents, draw_latents
from fedvpa.alignment.loop import Progress, align
from fedvpa.alignment.preferences import Compare, Labelled, every_pair, label, language_floor
from fedvpa.alignment.prompts import _draw, public_prompts
from fedvpa.alignment.stage1 import ONE, Stage1
from fedvpa.alignment.stopping import Against, Kept, Validation, against_samples
from fedvpa.core.errors import ConfigError
from fedvpa.core.progress import say
from fedvpa.core.seeds import Label
from fedvpa.data.schema import Pair, Text
from fedvpa.models.locate import locate
from fedvpa.policy.dpo_trainer import Trainer
from fedvpa.policy.examples import Examples
from fedvpa.policy.files import new_policy
from fedvpa.policy.model import Policy
from fedvpa.policy.rows import Ids


def fresh_policy(stage: Stage1, name: str) -> Policy:
    """The base model with a fresh LoRA, the same for all methods, and a conditioner if the method has a latent."""
    latent = int(stage.selector.prototypes.shape[1]) if stage.personal else None
    policy = new_policy(
        stage.config.policy, stage.config.features.model, latent, stage.config.seed, device=stage.config.features.device
    )
    if policy.source.tokenizer_hash() != _tokenizer_of(stage):
        say("the policy's tokenizer is not the selector's: responses are handed over as text")
    return policy


def _tokenizer_of(stage: Stage1) -> str:
    return locate(stage.config.features.model).tokenizer_hash()


def base_candidates(stage: Stage1, policy: Policy, texts: Sequence[Text], purpose: str) -> Candidates:
    """Samples of the base policy, from the cache where they are: they are the same for every method."""
    config, limits = stage.config, stage.config.policy.candidates
    if limits.source == "pairs" and purpose == "train":
        return pair_candidates(policy, _pairs_of(stage, texts), stage.backbone, config.features)
    key = candidates_key(policy, texts, limits, stage.selector.feature_key, config.features, config.seed, purpose)
    path = config.features.cache_root() / "candidates" / f"{key}.safetensors"

    def make_them() -> Candidates:
        say(f"sampling {limits.samples} responses to each of {len(texts)} prompts ({purpose})")
        return sample_candidates(policy, texts, limits, stage.backbone, config.features, config.seed, purpose)

    return load_or_make(path, make_them)


def _pairs_of(stage: Stage1, texts: Sequence[Text]) -> list[Pair]:
    wanted, table = set(texts), stage.prepared.table
    rows = sorted({int(row) for client in stage.prepared.federation.partition.seen for row in client.train})
    return [table.pairs[row] for row in rows if table.pairs[row].prompt in wanted]


def latents_of(stage: Stage1, name: str, count: int, *path: Label) -> Latents:
    """The latents that label a policy's pairs: the population's, a true group's, or the one of a monolithic method."""
    if stage.personal:
        algorithm = make(stage.config.method, stage.config.method_config)
        return draw_latents(
            stage.selector,
            stage.posterior,
            stage.config.policy.preferences,
            count,
            stage.config.seed,
            *path,
            prototypes=algorithm.has_prototypes,
        )
    _, groups, _ = stage.users(seen=True)
    row = groups.index(name) if stage.by_group else 0
    same = stage.posterior[torch.full((count,), row)]
    return Latents(same, same.mean, torch.zeros(count, dtype=torch.long))


def labelled(
    stage: Stage1, name: str, candidates: Candidates, *path: Label, compare: Compare | None = None
) -> Labelled:
    """The z-labelled pairs of a policy; a method without a latent gets as many pairs per prompt as the others.

    Args:
        stage: The first stage.
        name: Of the policy.
        candidates: The responses.
        *path: Labels that name the draws.
        compare: What orders them; by default the stage's selector.
    """
    rule, compare = stage.config.policy.preferences, compare or every_pair(stage.selector)
    if stage.personal:
        latents = latents_of(stage, name, rule.latents_per_prompt * len(candidates.prompts), "train", *path)
        return label(candidates, compare, latents, rule, with_z=True)
    keep = rule.latents_per_prompt * rule.pairs_per_latent
    latents = latents_of(stage, name, len(candidates.prompts), "train", *path)
    return label(candidates, compare, latents, rule, with_z=False, pairs_per_latent=keep)


@dataclass(frozen=True)
class Ranker:
    """What stands in for the stage's selector, of a method whose selector reads no features.

    Attributes:
        compare: Orders candidates.
        against: The base policy's samples → what the validation looks ask.
    """

    compare: Compare
    against: Callable[[Candidates], Against]


@dataclass(frozen=True)
class Problem:
    """Everything that one policy's training needs.

    Attributes:
        name: Of the policy.
        policy: Fresh.
        trainer: Of it.
        labelled: The pairs.
        validation: Chooses the stopping step.
        stage: Where it came from.
        texts: The prompts, for refreshes.
        compare: What orders candidates.
        floor: See :func:`language_floor`; for refreshes.
    """

    name: str
    policy: Policy
    trainer: Trainer
    labelled: Labelled
    validation: Validation
    stage: Stage1
    texts: Sequence[Text]
    compare: Compare
    floor: float

    def run(self, kept: Kept | None = None, folder: Path | None = None) -> Generator[Progress, None, None]:
        """DPO from the trainer's step on.

        Args:
            kept: From the run that is resumed.
            folder: Where the samples of refreshes are kept, without which no run could be resumed after one.
        """
        config = self.stage.config
        refresh = partial(self.refresh, folder=folder) if config.policy.refresh_every else None
        return align(
            self.policy,
            self.trainer,
            self.labelled.examples,
            self.validation,
            config.policy,
            config.seed,
            self.name,
            kept=kept,
            refresh=refresh,
        )

    def refresh(self, step: int, folder: Path | None = None) -> Examples:
        """Pairs among samples of the current policy, each judged at the latent that it was sampled with."""
        stage, config = self.stage, self.stage.config
        texts = _draw(self.texts, config.policy.refresh_prompts, config.seed, "refresh", step)
        latents = latents_of(stage, self.name, len(texts), "refresh", step)

        def sample() -> Candidates:
            limits, z, path = config.policy.candidates, latents.z if stage.personal else None, ("refresh", step)
            return sample_candidates(
                self.policy, texts, limits, stage.backbone, config.features, config.seed, *path, z=z, own=True
            )

        own = load_or_make(folder / f"{refreshed(self.name)}{step}.safetensors", sample) if folder else sample()
        rule = config.policy.preferences
        keep = rule.latents_per_prompt * rule.pairs_per_latent
        return label(
            own, self.compare, latents, rule, with_z=stage.personal, pairs_per_latent=keep, floor=self.floor
        ).examples


def refreshed(name: str) -> str:
    """How the names of the files begin that keep the samples of a policy's refreshes."""
    return f"refresh-{name}-" if name else "refresh-"


def problem(stage: Stage1, name: str = ONE, ranker: Ranker | None = None) -> Problem:
    """Set up the training of one policy.

    Args:
        stage: The first stage.
        name: Of the policy.
        ranker: In place of the stage's selector.

    Raises:
        ConfigError: If the method has no policy: ``local`` has one selector per client.
        DataError: If no pair is left after the margin filter.
    """
    if stage.config.method == "local":
        raise ConfigError(
            "The yardstick 'local' has a selector per client and no one policy.", fix="Align another run."
        )
    policy = fresh_policy(stage, name)
    texts, held = public_prompts(stage)
    compare = ranker.compare if ranker else every_pair(stage.selector)
    candidates = base_candidates(stage, policy, texts, "train")
    made = labelled(stage, name, candidates, compare=compare)
    samples = base_candidates(stage, policy, held, "validation")
    latents = latents_of(stage, name, len(held), "validation")
    against = (
        ranker.against(samples)
        if ranker
        else against_samples(stage.selector, samples, latents, lambda found: _features(stage, held, found, policy))
    )
    validation = Validation(samples.prompts, latents, against, stage.personal)
    trainer = Trainer(policy, stage.config.policy, stage.config.seed, name)
    return Problem(name, policy, trainer, made, validation, stage, texts, compare, language_floor(candidates))


def _features(stage: Stage1, texts: Sequence[Text], found: Sequence[Ids], policy: Policy) -> Float[Tensor, "n d"]:
    return features_of(texts, [policy.words.text(ids) for ids in found], stage.backbone, stage.config.features)
