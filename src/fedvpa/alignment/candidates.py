"""Responses to public prompts: sampled once from the base policy, scored by everybody's selector.

All methods of a comparison share them, with their reference log-probabilities, which do not depend on z.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from fedvpa.core.errors import ModelError
from fedvpa.core.processes import current
from fedvpa.core.progress import say
from fedvpa.core.schema import VERSIONS
from fedvpa.core.seeds import Label
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tensors import write_tensors
from fedvpa.data.schema import Pair, PairTable, Text
from fedvpa.features.backbone import Backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import extract
from fedvpa.features.responses import features_of
from fedvpa.models.device import resolve_device, resolve_dtype
from fedvpa.models.tokens import TokenCounts
from fedvpa.policy.config import CandidateConfig
from fedvpa.policy.partial_samples import PartialSamples
from fedvpa.policy.policy import Policy
from fedvpa.policy.rows import Ids, say_cuts
from fedvpa.policy.sampling import Sampling

Item = TypeVar("Item")


@dataclass(frozen=True, repr=False)
class Candidates:
    """K responses to each of P prompts.

    Attributes:
        prompts: The prompts' tokens.
        responses: For each prompt, the tokens of its K responses.
        features: Raw features of the responses, shape [P, K, d].
        reference: For each prompt, the log-probabilities of its responses' tokens under the reference policy, in nats.
        distinct: Whether a response has tokens and is the first of its text among those of its prompt, shape [P, K];
            others make no pairs.
    """

    prompts: list[Ids]
    responses: list[list[Ids]]
    features: Float[Tensor, "p samples d"]
    reference: list[list[NDArray[np.float32]]]
    distinct: Bool[Tensor, "p samples"]

    __repr__ = short_repr

    @property
    def least(self) -> Float[Tensor, "p samples"]:
        """The reference's log-probability of each response's least likely token, in nats; 0 where it has no token."""
        return torch.tensor([[float(part.min(initial=0.0)) for part in group] for group in self.reference])

    def content(self) -> str:
        """A hash of all tokens: the same draws on another device, or by other versions, may be other responses."""
        total = hashlib.sha256()
        for ids in (*self.prompts, *(ids for group in self.responses for ids in group)):
            total.update(len(ids).to_bytes(4, "big") + np.ascontiguousarray(ids, np.int32).tobytes())
        return total.hexdigest()

    def save(self, path: Path) -> None:
        """Write as safetensors, atomically."""
        flat = [ids for group in self.responses for ids in group]
        write_tensors(
            path,
            {
                "prompts": torch.from_numpy(np.concatenate(self.prompts)),
                "prompt_lengths": torch.tensor([len(ids) for ids in self.prompts]),
                "responses": torch.from_numpy(np.concatenate(flat)),
                "response_lengths": torch.tensor([len(ids) for ids in flat]),
                "features": self.features,
                "reference": torch.from_numpy(np.concatenate([part for group in self.reference for part in group])),
                "distinct": self.distinct,
            },
            {"schema_version": str(VERSIONS["candidates"])},
        )

    @classmethod
    def load(cls, path: Path) -> Candidates:
        """What :meth:`save` wrote."""
        saved = load_file(path)
        count, lengths = saved["distinct"].shape[1], saved["response_lengths"]
        return cls(
            _split(saved["prompts"], saved["prompt_lengths"]),
            _grouped(_split(saved["responses"], lengths), count),
            saved["features"],
            _grouped(_split(saved["reference"], lengths), count),
            saved["distinct"] & (lengths > 0).view(-1, count),  # files of earlier releases have empty ones as well
        )


def sample_candidates(
    policy: Policy,
    texts: Sequence[Text],
    config: CandidateConfig,
    backbone: Backbone,
    features: FeatureConfig,
    seed: int,
    *path: Label,
    own: bool = False,
    z: Float[Tensor, "p k"] | None = None,
    kept: PartialSamples | None = None,
) -> Candidates:
    """Draw K responses to each prompt, from the reference policy or from the policy itself.

    Args:
        policy: Whose base or self is sampled.
        texts: The prompts.
        config: How many and how.
        backbone: The selector's language model.
        features: How it is read.
        seed: Names, with ``path``, the draws.
        *path: Labels.
        own: Sample the policy itself.
        z: A latent per prompt, for samples of a policy that follows one.
        kept: Where responses are kept until all are there.
    """
    prompts = policy.tokenizer.prompts(texts)
    count = config.samples
    repeated = [ids for ids in prompts for _ in range(count)]
    sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens, config.batch)
    if not own:
        with policy.reference() as base:
            flat = base.sample(repeated, None, sampling, seed, "candidates", *path, kept=kept)
    else:
        latents = None if z is None else z.repeat_interleave(count, 0)
        flat = policy.sample(repeated, latents, sampling, seed, "candidates", *path, kept=kept)
    return _assemble(policy, texts, prompts, flat, count, backbone, features)


def pair_candidates(
    policy: Policy, pairs: Sequence[Pair], config: CandidateConfig, backbone: Backbone, features: FeatureConfig
) -> Candidates:
    """The two responses of each pair of a data set as candidates, whichever of them was chosen.

    They are as the policy could have given them: no longer than ``policy.candidates.max_new_tokens``, and ended only if
    they end before that. A response that was cut when the data were sampled is so not taught to end there.
    """
    tokens, counts = policy.tokenizer.pairs(pairs)
    whole = [ids for _, chosen, rejected in tokens for ids in (chosen, rejected)]
    flat = [ids[: config.max_new_tokens] for ids in whole]
    longer = sum(len(short) < len(ids) for short, ids in zip(flat, whole, strict=True))
    say_cuts(counts + TokenCounts(responses_truncated=longer), f"{len(pairs)} pairs")
    store = extract(PairTable(tuple(pairs)), backbone, features)
    raw = np.stack([np.asarray(store.chosen), np.asarray(store.rejected)], axis=1)
    return _finish(policy, [prompt for prompt, _, _ in tokens], flat, 2, torch.from_numpy(raw.astype(np.float32)))


def load_or_make(path: Path, make: Callable[[PartialSamples], Candidates]) -> Candidates:
    """The candidates at ``path``, made and kept first where there are none; of two programs one makes them.

    Processes that are together make them together: the first one looks for the file, keeps it, and tells the others.

    Args:
        path: The file.
        make: Makes them; what it samples is kept in the file that it is given, so that it goes on after Ctrl-C.
    """
    team = current()
    with _held(path) if team.main else nullcontext():
        if not team.told(path.is_file()):
            partial = PartialSamples(path.with_suffix(".partial"))
            made = make(partial)
            if team.main:
                made.save(path)
                partial.remove()
        return team.told([Candidates.load(path)] if team.main else [])[0]


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the lock of whoever makes a file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        yield


def candidates_key(
    policy: Policy,
    texts: Sequence[Text],
    config: CandidateConfig,
    feature_key: str,
    features: FeatureConfig,
    seed: int,
    *path: Label,
) -> str:
    """Names candidates by everything that decides them. Devices are no part: they only move rounding.

    Args:
        policy: Whose base is sampled: its weights, tokenizer, rendering, stop set, precision and longest prompt.
        texts: The prompts.
        config: How many and how.
        feature_key: What the features mean.
        features: The precision in which they are computed and kept.
        seed: Names, with ``path``, the draws.
        *path: Labels.
    """
    parts = [
        VERSIONS["candidates"],
        policy.source.identity(),
        policy.source.tokenizer_hash(),
        str(policy.model.get_input_embeddings().weight.dtype),
        policy.tokenizer.max_prompt_tokens,
        policy.tokenizer.identity(),
        config.model_dump(mode="json"),
        feature_key,
        str(resolve_dtype(features.dtype, resolve_device(features.device))),
        features.storage,
        seed,
        *path,
    ]
    plain = [text if isinstance(text, str) else [[turn.role, turn.content] for turn in text] for text in texts]
    return hashlib.sha256(json.dumps([parts, plain], sort_keys=True).encode()).hexdigest()[:32]


def _assemble(
    policy: Policy,
    texts: Sequence[Text],
    prompts: list[Ids],
    flat: list[Ids],
    count: int,
    backbone: Backbone,
    features: FeatureConfig,
) -> Candidates:
    answers = [policy.tokenizer.text(ids) for ids in flat]
    if not any(answer.strip() for answer in answers):
        raise ModelError("The base policy gave no text to any prompt.", fix="Check its tokenizer and chat template.")
    repeated = [text for text in texts for _ in range(count)]
    empty = sum(not answer.strip() for answer in answers)
    if empty:
        say(f"{empty} of {len(answers)} samples have no text")
    raw = features_of(repeated, answers, backbone, features)
    return _finish(policy, prompts, flat, count, raw.view(len(prompts), count, -1))


def _finish(
    policy: Policy, prompts: list[Ids], flat: list[Ids], count: int, features: Float[Tensor, "p samples d"]
) -> Candidates:
    reference = policy.reference_log_probs([ids for ids in prompts for _ in range(count)], flat)
    grouped = _grouped(flat, count)
    distinct = torch.tensor([[_makes_pairs(group, place) for place in range(count)] for group in grouped])
    return Candidates(prompts, grouped, features, _grouped(reference, count), distinct)


def _grouped(flat: list[Item], count: int) -> list[list[Item]]:
    return [flat[start : start + count] for start in range(0, len(flat), count)]


def _makes_pairs(group: Sequence[Ids], place: int) -> bool:
    """Not for a sample without a token: DPO has nothing to make likelier there."""
    return bool(len(group[place])) and not any(np.array_equal(group[place], group[earlier]) for earlier in range(place))


def _split(flat: Tensor, lengths: Tensor) -> list[NDArray[Any]]:
    return list(np.split(flat.numpy(), np.cumsum(lengths.numpy())[:-1]))
