"""What stage 2 needs from stage 1, and the two joined: prompts, candidates, latents, one policy per method."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.algorithms import make
from fedvpa.api.config import RunConfig
from fedvpa.api.prepare import Prepared
from fedvpa.core.errors import ConfigError, DataError
from fedvpa.core.progress import say
from fedvpa.core.seeds import Label, entropy, numpy_generator
from fedvpa.data import Pair
from fedvpa.data.schema import Text
from fedvpa.evaluation.accuracy import infer_clients
from fedvpa.features import Backbone, load_backbone
from fedvpa.features.locate import locate
from fedvpa.policy.alignment import Against, Kept, Progress, Validation, against_samples, align
from fedvpa.policy.candidates import (
    Candidates,
    candidates_key,
    features_of,
    load_or_make,
    pair_candidates,
    sample_candidates,
)
from fedvpa.policy.dpo import Trainer
from fedvpa.policy.model import Policy, new_policy
from fedvpa.policy.preferences import (
    Compare,
    Examples,
    Labelled,
    Latents,
    draw_latents,
    every_pair,
    label,
    language_floor,
)
from fedvpa.policy.rows import Ids
from fedvpa.selector.posterior import Posterior
from fedvpa.selector.selector import Selector
from fedvpa.world.prompts import Pool, prompts

ONE = ""
"""The name of the policy of a method that has one for all."""

VALIDATION_TENTHS = 1
"""Of ten prompts of a data set, so many choose the stopping step."""


@dataclass(frozen=True)
class Stage1:
    """A trained selector and the data that it was trained on.

    Attributes:
        config: Of the run; ``config.policy`` is stage 2's.
        prepared: Pairs, features, clients.
        selector: Frozen.
        posterior: Of the seen clients, in the partition's order.
    """

    config: RunConfig
    prepared: Prepared
    selector: Selector
    posterior: Posterior

    @property
    def groups(self) -> tuple[str, ...]:
        """The preferences that evaluation knows by name."""
        return self.prepared.federation.groups

    @property
    def personal(self) -> bool:
        """Whether the method infers a latent that its policy follows."""
        return make(self.config.method, self.config.method_config).personal

    @property
    def by_group(self) -> bool:
        """Whether the method trains one policy per true group: the oracle."""
        return make(self.config.method, self.config.method_config).reads_groups

    @property
    def policies(self) -> tuple[str, ...]:
        """The names of the method's policies."""
        return self.groups if self.by_group else (ONE,)

    @cached_property
    def backbone(self) -> Backbone:
        """The selector's language model."""
        return load_backbone(self.config.features)

    def users(self, *, seen: bool) -> tuple[list[str], list[str | None], Float[Tensor, "n k"]]:
        """Ids, true groups and z of seen or unseen users; z is the posterior's mean from their training pairs."""
        partition = self.prepared.federation.partition
        clients = partition.seen if seen else partition.unseen
        ids, groups = [client.client_id for client in clients], [client.group for client in clients]
        if not clients:
            return ids, groups, torch.zeros(0, self.selector.prototypes.shape[1])
        if seen:
            return ids, groups, self.posterior.mean
        posterior = infer_clients(self.selector, self.prepared.federation, clients, by_group=self.by_group)
        return ids, groups, posterior.mean

    def named_preferences(self) -> dict[str, list[float]]:
        """Group → the z that stands for it: the prototype that most of its users are nearest to, or their mean z."""
        _, groups, z = self.users(seen=True)
        found = {}
        for name in self.groups:
            rows = [row for row, group in enumerate(groups) if group == name]
            if not rows:
                continue
            shares = self.posterior.weights[rows].mean(0)
            prototypes = self.selector.prototypes
            found[name] = (
                prototypes[int(shares.argmax())] if len(shares) == len(prototypes) > 1 else z[rows].mean(0)
            ).tolist()
        return found


def public_prompts(stage: Stage1) -> tuple[list[Text], list[Text]]:
    """Prompts to align on, and prompts to stop by; users' test prompts are in neither.

    The bundled world has public pools. Of other data the prompts of the training pairs are used, as the paper does,
    unless ``policy.candidates.prompt_file`` gives public ones: then no user's prompt leaves a device.
    """
    config, limits = stage.config, stage.config.policy.candidates
    if config.data.source == "world" and limits.prompt_file is None:
        return _pool("train", limits.prompts, config.seed), _pool("validation", limits.validation_prompts, config.seed)
    texts = _read_prompts(limits.prompt_file) if limits.prompt_file else _training_prompts(stage)
    held = [text for text in texts if entropy(0, "validation-prompt", repr(text)) % 10 < VALIDATION_TENTHS]
    aside = set(held)
    kept = [text for text in texts if text not in aside]
    if not kept or not held:
        raise DataError(f"{len(texts)} prompts are too few to align on and to stop by.", fix="Give more prompts.")
    return _draw(kept, limits.prompts, config.seed, "train"), _draw(
        held, limits.validation_prompts, config.seed, "validation"
    )


def evaluation_prompts(stage: Stage1, count: int) -> list[Text]:
    """Prompts that no training has seen: of the world's test pool, or of users' test pairs."""
    if stage.config.data.source == "world":
        return _pool("test", count, stage.config.seed)
    partition, table = stage.prepared.federation.partition, stage.prepared.table
    used = set(_training_prompts(stage))
    rows = sorted({int(row) for client in partition.clients for row in client.test})
    texts = list(dict.fromkeys(table.pairs[row].prompt for row in rows if table.pairs[row].prompt not in used))
    if not texts:
        raise DataError("No test prompt is left that training has not seen.", fix="Split by prompt, or give more data.")
    return _draw(texts, count, stage.config.seed, "test")


def _pool(pool: Pool, count: int, seed: int) -> list[Text]:
    return _draw([prompt.text for prompt in prompts(pool)], count, seed, pool)


def _draw(texts: Sequence[Text], count: int, seed: int, *path: Label) -> list[Text]:
    order = numpy_generator(seed, "policy-prompts", *path).permutation(len(texts))
    return [texts[row] for row in order[:count]]


def _training_prompts(stage: Stage1) -> list[Text]:
    partition, table = stage.prepared.federation.partition, stage.prepared.table
    held = {table.pairs[int(row)].prompt for client in partition.clients for row in client.test}
    rows = sorted({int(row) for client in partition.seen for row in client.train})
    return list(dict.fromkeys(table.pairs[row].prompt for row in rows if table.pairs[row].prompt not in held))


def _read_prompts(path: Path) -> list[Text]:
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot be read ({error}).", fix="Give a text file, one prompt a line.", where=str(path)
        ) from error
    return list(dict.fromkeys(line for line in lines if line.strip()))


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
