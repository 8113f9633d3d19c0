"""Responses drawn token by token: each prompt computed once for all its samples, finished rows left out.

What makes it faster than ``generate`` of transformers: equal prompts under equal z are computed once, rows of like
length together; their keys and values are repeated into one buffer with room for what follows, and no step copies it;
a finished response leaves the batch; and a token is found by one number instead of one for each token of the
vocabulary. Architectures whose cache is not the ordinary one of attention layers are left to ``generate``, with the
same draws; that is said.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from fedvpa.core.errors import TrainingError
from fedvpa.core.progress import say
from fedvpa.core.short_repr import short_repr
from fedvpa.models.agreement import AGREEMENT, REJECTIONS, probe_tokens, relative_difference
from fedvpa.models.batching import batches
from fedvpa.models.budget import token_budget
from fedvpa.policy.buffer import Buffer
from fedvpa.policy.drawing import pick
from fedvpa.policy.generation import StopTexts, generated
from fedvpa.policy.network import PolicyNetwork
from fedvpa.policy.rows import Ids, alike
from fedvpa.policy.sampling import Sampling

GONE = 0.25
"""Share of finished rows from which on they are taken out of the buffer, which copies it. Chosen by us."""

Draw = Callable[[Tensor, int, Tensor], Tensor]
"""Logits, number of the step and rows → tokens."""

_obstacles: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


@dataclass(slots=True, repr=False)
class _State:
    """Rows that are being drawn: their cache, which places of it hold a token, and the next logits."""

    layers: list[Buffer]
    cache: DynamicCache
    attention: Tensor
    logits: Tensor

    __repr__ = short_repr


def draw_responses(
    policy: PolicyNetwork, prompts: Sequence[Ids], z: Tensor | None, sampling: Sampling, numbers: np.ndarray
) -> list[Ids]:
    """One response to each prompt, up to the tokens that end it or the limit.

    Args:
        policy: In evaluation mode.
        prompts: Tokens.
        z: A latent per prompt, on the policy's device.
        sampling: How.
        numbers: From :func:`~fedvpa.policy.drawing.uniforms`.

    Raises:
        TrainingError: If the logits are not finite.
    """
    texts = [policy.tokenizer.stop_texts(prompt) for prompt in prompts]
    told = torch.from_numpy(numbers.astype(np.float32)).to(policy.device)  # some devices have no float64

    def draw(logits: Tensor, step: int, rows: Tensor) -> Tensor:
        return pick(logits, told[rows, step], sampling)

    if decoding_obstacle(policy):
        return generated(policy, prompts, z, sampling, draw, texts)
    drawn = _decoded(policy, prompts, z, sampling.max_new_tokens, draw, StopTexts(policy.tokenizer, texts))
    return [row.astype(np.int32) for row in drawn]


def _decoded(
    policy: PolicyNetwork, prompts: Sequence[Ids], z: Tensor | None, longest: int, draw: Draw, stop: StopTexts
) -> list[np.ndarray]:
    """The tokens of each response as far as it was drawn; ``stop`` may notice an end only after it."""
    device = policy.device
    ends = torch.tensor(policy.tokenizer.stops.tokens, device=device)
    state = _prefilled(policy, prompts, z)
    live = torch.arange(len(prompts), device=device)  # which response each row of the cache is
    going = torch.ones(len(prompts), dtype=torch.bool, device=device)  # whether that row is still drawn
    positions = state.attention.sum(1)
    drawn = torch.full((len(prompts), longest), policy.tokenizer.pad, device=device)
    lengths = torch.zeros(len(prompts), dtype=torch.long, device=device)
    for step in range(longest):
        tokens = draw(state.logits, step, live)
        drawn[live, step] = tokens
        lengths[live[going]] = step + 1
        going &= ~torch.isin(tokens, ends)
        if stop.watches:
            going &= ~stop.ended(drawn[:, : step + 1], live)
        if step + 1 == longest or not bool(going.any()):
            break
        if float((~going).float().mean()) >= GONE:
            kept = going.nonzero()[:, 0]
            for layer in state.layers:
                layer.keep(kept)
            state.attention, live, positions, tokens = (
                part[kept] for part in (state.attention, live, positions, tokens)
            )
            going = torch.ones(len(live), dtype=torch.bool, device=device)
        state.attention = torch.cat([state.attention, state.attention.new_ones(len(live), 1)], 1)
        with policy.listening(None if z is None else z[live]):
            state.logits = _logits(policy, state.cache, state.attention, positions[:, None], input_ids=tokens[:, None])
        positions = positions + 1
    return [row[:length] for row, length in zip(drawn.cpu().numpy(), lengths.tolist(), strict=True)]


def _prefilled(policy: PolicyNetwork, prompts: Sequence[Ids], z: Tensor | None) -> _State:
    """Compute every distinct prompt once, and repeat what is kept of it for each response."""
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
            own = _logits(policy, cache, rows.attention, _positions(rows.attention), inputs_embeds=embeddings)
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
    return _State(buffers, whole, attention[source], logits[source])


def _places(layer: Any, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Room for the keys and values of so many rows; zeros, since masked places must be finite."""
    found = [part.new_zeros(rows, part.shape[1], length, part.shape[3]) for part in (layer.keys, layer.values)]
    return found[0], found[1]


def _positions(attention: Tensor) -> Tensor:
    """The position of each token in its row, padding on the left: 0 for the first one."""
    return (attention.cumsum(1) - 1).clamp(min=0)


def _logits(
    policy: PolicyNetwork, cache: DynamicCache | None, attention: Tensor, positions: Tensor, **inputs: Tensor
) -> Tensor:
    """The logits behind the last token of each row."""
    model = policy.model
    known = inspect.signature(model.get_base_model().forward).parameters
    options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
    if "position_ids" in known:
        options["position_ids"] = positions
    out = model(**inputs, attention_mask=attention, past_key_values=cache, use_cache=cache is not None, **options)
    found: Tensor = out.logits[:, -1]
    return found


def decoding_obstacle(policy: PolicyNetwork) -> str:
    """Why responses cannot be drawn here; empty if they can. Found once for each base, and said.

    Two prompts are computed, one of them twice, and continued by a token; the logits must be those of whole rows.
    """
    causal = policy.model.get_base_model()
    if causal not in _obstacles:
        _obstacles[causal] = _obstacle(policy)
        if _obstacles[causal]:
            say(f"{policy.source.name}: sampling is left to transformers' generate, since {_obstacles[causal]}")
    return _obstacles[causal]


@torch.no_grad()
def _obstacle(policy: PolicyNetwork) -> str:
    causal = policy.model.get_base_model()
    tokens = probe_tokens(causal, 9)
    prompts = [tokens[:5], tokens[5:8], tokens[:5]]
    next_tokens = torch.tensor([[int(tokens[8])]] * 3, device=policy.device)
    with policy.reference() as base:
        rows = base.layout.rows([np.append(prompt, tokens[8]) for prompt in prompts]).to(base.device)
        expected = _logits(base, None, rows.attention, _positions(rows.attention), input_ids=rows.ids)
        try:
            state = _prefilled(base, prompts, None)
            positions = state.attention.sum(1)
            attention = torch.cat([state.attention, state.attention.new_ones(3, 1)], 1)
            found = _logits(base, state.cache, attention, positions[:, None], input_ids=next_tokens)
        except (*REJECTIONS, AttributeError) as error:
            return f"its cache cannot be repeated ({type(error).__name__})"
    difference = relative_difference(found, expected)
    if not difference <= AGREEMENT[causal.dtype]:
        return f"a repeated cache changes the logits (by {difference:.1e} of their norm)"
    return ""
