"""The texts that the bundled language model learns from: prompts of the training pool, and responses of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Qwen2Tokenizer

from fedvpa.core.seeds import numpy_generator
from fedvpa.core.short_repr import short_repr
from fedvpa.world.attributes import draw_attributes
from fedvpa.world.generate import draw_prompt
from fedvpa.world.grammar import render
from fedvpa.world.utility import FEATURES, features

CHUNK = 100
"""Batches whose examples are drawn and sorted by length together."""

TRAITS = FEATURES[:-1]
"""The features that vary in the world's own responses: all but off-topic details."""


@dataclass(frozen=True, slots=True, repr=False)
class Batch:
    """Right-padded examples.

    Attributes:
        tokens: Token ids.
        response: Whether a token belongs to the response or is its EOS.
        pooled: 1 for response tokens without EOS, else 0.
        features: φ of each response, in the order of ``TRAITS``.
    """

    tokens: Int[Tensor, "batch time"]
    response: Bool[Tensor, "batch time"]
    pooled: Float[Tensor, "batch time"]
    features: Float[Tensor, "batch traits"]

    __repr__ = short_repr


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a prompt and of a response with its EOS, and φ of the response."""

    prompt: list[int]
    response: list[int]
    features: list[float]


def corpus_batches(tokenizer: Qwen2Tokenizer, *, examples: int, batch: int, seed: int) -> Iterator[Batch]:
    """Batches in which examples are of like length, in random order.

    Args:
        tokenizer: The world's.
        examples: How many to draw; what does not fill a batch is left out.
        batch: Examples per batch.
        seed: Names every draw.
    """
    rng = numpy_generator(seed, "backbone", "corpus")
    steps = examples // batch
    for first in range(0, steps, CHUNK):
        count = min(CHUNK, steps - first)
        drawn = _examples(count * batch, tokenizer, rng)
        drawn.sort(key=lambda example: len(example.prompt) + len(example.response))
        for row in rng.permutation(count):
            yield _collate(drawn[row * batch : (row + 1) * batch], tokenizer)


def _examples(count: int, tokenizer: Qwen2Tokenizer, rng: np.random.Generator) -> list[Example]:
    drawn = [(draw_prompt(rng, "train"), draw_attributes(rng)) for _ in range(count)]
    prompts = tokenizer([prompt.text for prompt, _ in drawn]).input_ids
    responses = tokenizer([render(prompt.intent, attributes, rng) for prompt, attributes in drawn]).input_ids
    return [
        Example(prompt, [*response, tokenizer.eos_token_id], features(attributes)[: len(TRAITS)].tolist())
        for prompt, response, (_, attributes) in zip(prompts, responses, drawn, strict=True)
    ]


def _collate(examples: list[Example], tokenizer: Qwen2Tokenizer) -> Batch:
    width = max(len(example.prompt) + len(example.response) for example in examples)
    tokens = torch.full((len(examples), width), tokenizer.pad_token_id)
    response = torch.zeros((len(examples), width), dtype=torch.bool)
    for row, example in enumerate(examples):
        start, end = len(example.prompt), len(example.prompt) + len(example.response)
        tokens[row, :end] = torch.tensor(example.prompt + example.response)
        response[row, start:end] = True
    pooled = (response & (tokens != tokenizer.eos_token_id)).float()
    return Batch(tokens, response, pooled, torch.tensor([example.features for example in examples]))
