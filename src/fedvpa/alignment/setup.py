"""What the training of one policy starts from: the fresh policy, candidates, latents and labelled pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fedvpa.alignment.candidates import (
    Candidates,
    candidates_key,
    load_or_make,
    pair_candidates,
    sample_candidates,
)
from fedvpa.alignment.latents import Latents, draw_latents
from fedvpa.alignment.preferences import LabelledPairs, MarginFunction, label_pairs, selector_margins
from fedvpa.alignment.reader import reader_of
from fedvpa.alignment.stage1 import Stage1
from fedvpa.alignment.stopping import ValidationMargins
from fedvpa.core.progress import say
from fedvpa.core.seeds import Label
from fedvpa.data.schema import Text
from fedvpa.models.locate import locate
from fedvpa.models.reading import check_readable
from fedvpa.models.rendering import say_header
from fedvpa.policy.partial_samples import PartialSamples
from fedvpa.policy.policy import Policy, new_policy
from fedvpa.policy.templates import with_template
from fedvpa.selector.pairs import Pairs


@dataclass(frozen=True)
class Labeller:
    """What stands in for the stage's selector, of a method whose selector reads no features.

    Attributes:
        margins: Orders candidates.
        over_base: The base policy's samples → the margins that validation asks for.
    """

    margins: MarginFunction
    over_base: Callable[[Candidates], ValidationMargins]


def fresh_policy(stage: Stage1) -> Policy:
    """The base model with a fresh LoRA, the same for all methods, and a conditioner if the method has a latent."""
    latent = int(stage.selector.prototypes.shape[1]) if stage.personal else None
    policy = new_policy(
        with_template(stage.policy, stage.features),
        stage.features.model,
        latent,
        stage.seed,
        device=stage.features.device,
    )
    if stage.personal and stage.algorithm.has_prototypes:
        policy.prototypes = stage.selector.prototypes.tolist()
    encoder = policy.tokenizer.encoder
    if policy.tokenizer.conversational:
        say_header(encoder.tokenizer, json.dumps(dict(encoder.renderer.arguments)))
    if policy.source.tokenizer_hash() != locate(stage.features.model, stage.features.loading).tokenizer_hash():
        say("the policy's tokenizer is not the selector's: responses are handed over as text")
    return policy


def check_prompts_readable(stage: Stage1, policy: Policy, texts: Sequence[Text]) -> None:
    """Say it, or raise ModelError, if a policy on another base than the features' model knows too little of prompts."""
    name = policy.source.name
    if name != stage.features.model:
        check_readable(texts, policy.tokenizer.base, name, key="policy.model")


def base_candidates(stage: Stage1, policy: Policy, texts: Sequence[Text], purpose: str) -> Candidates:
    """Samples of the base policy, from the cache where they are: they are the same for every method.

    Args:
        stage: The first stage.
        policy: On the base that is sampled.
        texts: The prompts.
        purpose: ``train``, ``validation`` or ``labelling``.
    """
    limits, features = stage.policy.candidates, stage.features
    if limits.source == "pairs" and purpose == "train":
        return pair_candidates(policy, stage.pairs.training_pairs(texts), limits, reader_of(stage, policy), features)
    key = candidates_key(policy, texts, limits, stage.selector.feature_key, features, stage.seed, purpose)
    path = features.cache_root() / "candidates" / f"{key}.safetensors"

    def sampled(kept: PartialSamples) -> Candidates:
        say(f"sampling {limits.samples} responses to each of {len(texts)} prompts ({purpose})")
        reader = reader_of(stage, policy)
        return sample_candidates(policy, texts, limits, reader, features, stage.seed, purpose, kept=kept)

    return load_or_make(path, sampled)


def candidate_texts(stage: Stage1, texts: Sequence[Text]) -> list[Text]:
    """The prompt of each of :func:`base_candidates` that train: of the pairs of a data set, of each pair."""
    if stage.policy.candidates.source == "pairs":
        return [pair.prompt for pair in stage.pairs.training_pairs(texts)]
    return list(texts)


def latents_of(stage: Stage1, name: str, count: int, *path: Label) -> Latents:
    """The latents that label a policy's pairs: the population's, a true group's, or the one of a monolithic method."""
    if stage.personal:
        return draw_latents(
            stage.selector,
            stage.seen.posterior,
            stage.policy.preferences,
            count,
            stage.seed,
            *path,
            prototypes=stage.algorithm.has_prototypes,
        )
    nobody = torch.zeros(count, dtype=torch.long)
    if stage.seen.posterior is None:  # the one posterior of a monolithic method needs no user's pairs
        nothing = torch.zeros(count, 0)
        same = stage.selector.infer(Pairs(nothing.unsqueeze(-1), nothing.unsqueeze(-1), nothing, nothing))
    else:
        row = stage.seen.groups.index(name) if stage.by_group else 0
        same = stage.seen.posterior[torch.full((count,), row)]
        if stage.by_group:
            return Latents(same, same.mean, nobody, torch.full((count,), row))
    return Latents(same, same.mean, nobody)


def first_pairs(
    stage: Stage1, name: str, candidates: Candidates, *path: Label, margins: MarginFunction | None = None
) -> LabelledPairs:
    """The z-labelled pairs of a policy; a method without a latent gets as many pairs per prompt as the others.

    Args:
        stage: The first stage.
        name: Of the policy.
        candidates: The responses of the base policy.
        *path: Labels that name the draws.
        margins: What orders them; by default the stage's selector.
    """
    rule, margins = stage.policy.preferences, margins or selector_margins(stage.reward)
    if stage.personal:
        latents = latents_of(stage, name, rule.latents_per_prompt * len(candidates.prompts), "train", *path)
        return label_pairs(candidates, margins, latents, rule, with_z=True)
    keep = rule.latents_per_prompt * rule.pairs_per_latent
    latents = latents_of(stage, name, len(candidates.prompts), "train", *path)
    return label_pairs(candidates, margins, latents, rule, with_z=False, pairs_per_latent=keep)
