"""Prompts computed before their responses are drawn: caches of keys and values, and the logits that follow."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from fedvpa.core.errors import TrainingError
from fedvpa.core.short_repr import short_repr
from fedvpa.models.batching import batches
from fedvpa.models.budget import token_budget
from fedvpa.policy.buffer import Buffer
from fedvpa.policy.network import PolicyNetwork
from fedvpa.policy.rows import Ids, alike


@dataclass(slots=True, repr=False)
class Cached:
    """Rows that are being drawn.

    Attributes:
        layers: The keys and values of each layer.
        cache: The same as transformers takes them.
        attention: 1 where a place of the cache holds a token of a row.
        logits: Of the next token.
    """

    layers: list[Buffer]
    cache: DynamicCache
    attention: Int[Tensor, "rows places"]
    logits: Float[Tensor, "rows vocabulary"]

    __repr__ = short_repr


def prefilled(policy: PolicyNetwork, prompts: Sequence[Ids], z: Tensor | None) -> Cached:
    """Compute every distinct prompt once, and repeat what is kept of it for each response.

    Args:
        policy: In evaluation mode.
        prompts: Tokens.
        z: A latent per prompt, on the policy's device; None for a policy without z.

    Raises:
        TrainingError: If there is no prompt.
    """
    keys = alike(prompts, z)
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    distinct = sorted(first.values())
    width = np.array([len(prompts[row]) for row in distinct], dtype=np.int64) + policy.layout.slots
    budget = token_budget(policy.tokens_per_batch, policy.device.type)
    longest, place = int(width.max()), {row: number for number, row in enumerate(distinct)}
    source = torch.tensor([place[first[key]] for key in keys], device=policy.device)
    layers: list[tuple[Tensor, Tensor]] = []
    logits = attention = None
    for numbers in batches(width, np.zeros(len(width), bool), budget):
        asked = [distinct[number] for number in numbers]
        rows = policy.layout.rows([prompts[row] for row in asked]).to(policy.device)
        cache: Any = DynamicCache()
        with policy.listening(None if z is None else z[asked]):
            embeddings = policy.embed(rows, None if z is None else z[asked])
            own = next_logits(policy, cache, rows.attention, positions_in(rows.attention), inputs_embeds=embeddings)
        if attention is None or logits is None:
            attention = rows.attention.new_zeros(len(distinct), longest)
            logits = own.new_empty(len(distinct), own.shape[1])
            layers = [_places(cache.layers[place], len(distinct), longest) for place in range(len(cache.layers))]
        start = longest - rows.attention.shape[1]
        index = torch.from_numpy(numbers).to(policy.device)
        attention[index, start:], logits[index] = rows.attention, own
        for (all_keys, all_values), layer in zip(layers, cache.layers, strict=True):
            all_keys[index, :, start:], all_values[index, :, start:] = layer.keys, layer.values
    if attention is None or logits is None:
        raise TrainingError("There are no prompts to answer.")
    whole, buffers = DynamicCache(), [Buffer(keys[source], values[source]) for keys, values in layers]
    whole.layers = list(buffers)
    return Cached(buffers, whole, attention[source], logits[source])


def _places(layer: Any, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Room for the keys and values of so many rows; zeros, since masked places must be finite."""
    found = [part.new_zeros(rows, part.shape[1], length, part.shape[3]) for part in (layer.keys, layer.values)]
    return found[0], found[1]


def positions_in(attention: Tensor) -> Tensor:
    """The position of each token in its row, padding on the left: 0 for the first one."""
    return (attention.cumsum(1) - 1).clamp(min=0)


def next_logits(
    policy: PolicyNetwork, cache: DynamicCache | None, attention: Tensor, positions: Tensor, **inputs: Tensor
) -> Tensor:
    """The logits behind the last token of each row."""
    model = policy.model
    known = _arguments(type(model.get_base_model()).forward)
    options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    if "position_ids" in known:
        options["position_ids"] = positions
    options["cache" if "cache" in known else "past_key_values"] = cache  # renamed by transformers 5.24
    out = model(**inputs, attention_mask=attention, use_cache=cache is not None, **options)
    found: Tensor = out.logits[:, -1]
    return found


@lru_cache
def _arguments(forward: Callable[..., Any]) -> frozenset[str]:
    """What the forward pass of a class of models takes."""
    return frozenset(inspect.signature(forward).parameters)
