"""Responses drawn token by token: each prompt computed once for all its samples, finished rows left out.

What makes it faster than ``generate`` of transformers: equal prompts under equal z are computed once, rows of like
length together; their keys and values are repeated into one buffer with room for what follows, and no step copies it;
a finished response leaves the batch; and a token is found by one number instead of one for each token of the
vocabulary. Architectures whose cache is not the ordinary one of attention layers are left to ``generate``, with the
same draws; that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from fedvpa.core.progress import say
from fedvpa.models.agreement import AGREEMENT, REJECTIONS, probe_tokens, relative_difference
from fedvpa.policy.drawing import pick
from fedvpa.policy.generation import StopTexts, generated
from fedvpa.policy.network import PolicyNetwork
from fedvpa.policy.prefill import next_logits, positions_in, prefilled
from fedvpa.policy.rows import Ids
from fedvpa.policy.sampling import Sampling

GONE = 0.25
"""Share of finished rows from which on they are taken out of the buffer, which copies it. Chosen by us."""

Draw = Callable[[Tensor, int, Tensor], Tensor]
"""Logits, number of the step and rows → tokens."""

_obstacles: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


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
    state = prefilled(policy, prompts, z)
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
            state.logits = next_logits(
                policy, state.cache, state.attention, positions[:, None], input_ids=tokens[:, None]
            )
        positions = positions + 1
    return [row[:length] for row, length in zip(drawn.cpu().numpy(), lengths.tolist(), strict=True)]


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
        expected = next_logits(base, None, rows.attention, positions_in(rows.attention), input_ids=rows.ids)
        try:
            state = prefilled(base, prompts, None)
            positions = state.attention.sum(1)
            attention = torch.cat([state.attention, state.attention.new_ones(3, 1)], 1)
            found = next_logits(base, state.cache, attention, positions[:, None], input_ids=next_tokens)
        except (*REJECTIONS, AttributeError) as error:
            return f"its cache cannot be repeated ({type(error).__name__})"
    difference = relative_difference(found, expected)
    if not difference <= AGREEMENT[causal.dtype]:
        return f"a repeated cache changes the logits (by {difference:.1e} of their norm)"
    return ""
