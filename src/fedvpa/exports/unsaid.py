"""Rows of a head for tokens that a model reads and never says.

A row of zeros has the logit 0, not minus infinity, and a row of the head that is the embedding of such a token may have
any logit. ``suppress_tokens`` of the generation settings is read by transformers and vLLM and by no GGUF. So the row
itself has to keep the token away, in every state that the model comes into.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.errors import ModelError

AIM = 50.0
"""Nats by which such a token's log-probability should lie below 0 in each state that was measured. Chosen by us: states
that lie half as far on the right side still keep it under 1e-10."""

LEAST = 20.0
"""Nats that are enough: 10,000 tokens hold one of them with a probability below 1e-4."""

MARGIN = 0.1
"""Share of the median state's product with the direction that every measured state must have, so that states which were
not measured are on the same side. Chosen by us."""

STEPS = 2000
"""Of Gilbert's algorithm."""


@torch.no_grad()
def shared_direction(states: Float[Tensor, "n hidden"]) -> Float[Tensor, " hidden"]:
    """A direction with which as many states as possible share as much as possible.

    The point of the states' convex hull that is nearest to 0 (Gilbert, 1966): its product with every state is at least
    its own squared length, so it is positive for all of them if any direction is.
    """
    point = states.mean(0)
    for _ in range(STEPS):
        farthest = states[(states @ point).argmin()]
        way = farthest - point
        step = float((-(point @ way) / (way @ way).clamp(min=1e-30)).clamp(0, 1))
        if step * float(way.norm()) <= 1e-6 * float(point.norm()):
            break
        point = point + step * way
    return point


@torch.no_grad()
def silent_row(states: Float[Tensor, "n hidden"], logits: Float[Tensor, "n vocabulary"]) -> Float[Tensor, " hidden"]:
    """A row of the head whose logit is low in every state.

    Args:
        states: What the head reads, at tokens of real text.
        logits: What it gives there.

    Raises:
        ModelError: If no direction is clearly on one side of all states. Half of them find it, and the others say
            whether it holds for states that did not.
    """
    direction = shared_direction(states[::2])
    along = states @ direction
    share = float(along.min() / along.median().clamp(min=1e-30))
    if not share >= MARGIN:
        raise ModelError(
            "No row of the head keeps profile tokens away: the states of this model share no direction (the farthest "
            f"one has {share:.2f} of the median one's part in the best, and {MARGIN} is needed).",
            fix="Use fedvpa export merged, whose model needs no token of its own.",
        )
    wanted = (AIM - logits.logsumexp(1)).clamp(min=0)
    return -float((wanted / along).max()) * direction


@torch.no_grad()
def check_unsaid(logits: Float[Tensor, "n vocabulary"], tokens: Sequence[int]) -> None:
    """Whether a model would not say tokens, in states at which its logits were measured.

    Raises:
        ModelError: With the largest probability of any of them.
    """
    most = log_probability(logits, tokens)
    if most > -LEAST:
        raise ModelError(
            f"The model would say a profile token with a probability of up to {math.exp(most):.1e}.",
            fix="Use fedvpa export merged, whose model needs no token of its own.",
        )


def log_probability(logits: Float[Tensor, "n vocabulary"], tokens: Sequence[int]) -> float:
    """The largest log-probability, over states, that one of ``tokens`` comes next, in nats."""
    return float((logits[:, list(tokens)].logsumexp(1) - logits.logsumexp(1)).max())


@torch.no_grad()
def states_and_logits(model: Any, rows: Sequence[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """What the head of a model reads and what it gives, at each token that is no padding.

    Args:
        model: A causal language model.
        rows: Batches of its inputs, with ``attention_mask``.

    Returns:
        States [tokens, hidden] and logits [tokens, vocabulary], in float32.
    """
    seen: list[Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    states, logits = [], []
    try:
        for inputs in rows:
            seen.clear()
            given = model(**inputs).logits
            there = inputs["attention_mask"].bool()
            states.append(seen[-1][there].float())
            logits.append(given[there].float())
    finally:
        handle.remove()
    return torch.cat(states), torch.cat(logits)
