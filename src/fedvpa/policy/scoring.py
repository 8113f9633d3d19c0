"""Log-probabilities of given tokens from hidden states, without the logits of all of them in memory at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fedvpa.models.products import OneDNNLinear, product

TOKENS_AT_ONCE = 256
"""Rows of logits in memory: 50 MB for a vocabulary of 49,152. Chosen by us: twice as many were not faster on a CPU."""

SCALES = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
"""Settings by which architectures change the logits behind the head (Gemma 2, Cohere, Falcon-H1, Granite …)."""


def plain_head(causal: Any) -> bool:
    """Whether the logits of a causal language model on a CPU are its linear head of its states, and nothing else."""
    head, settings = causal.get_output_embeddings(), causal.config.get_text_config()
    return (
        isinstance(head, nn.Linear)
        and head.weight.device.type == "cpu"
        and not isinstance(head.weight, DTensor)
        and not head.weight.requires_grad
        and all(getattr(settings, name, None) is None for name in SCALES)
    )


def token_scores(states: Float[Tensor, "M d"], head: nn.Linear, labels: Int[Tensor, " M"]) -> Float[Tensor, " M"]:
    """The log softmax of W·h + b at the label, of each state, in nats.

    Args:
        states: The states that predict the tokens.
        head: W and b, frozen.
        labels: The tokens.
    """
    found: Tensor = _Scores.apply(states, head, labels)
    return found


class _Scores(torch.autograd.Function):
    """Logits are computed anew for the gradient, d/dh = (1[label] − softmax)·W, and never kept."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, head: nn.Linear, labels: Tensor) -> Tensor:
        found, whole = [], []
        for part, own in zip(states.split(TOKENS_AT_ONCE), labels.split(TOKENS_AT_ONCE), strict=True):
            logits = head(part).float()
            said = logits.gather(1, own[:, None])[:, 0]
            peak = logits.amax(1, keepdim=True)
            total = logits.sub_(peak).exp_().sum(1).log_().add_(peak[:, 0])
            found.append(said - total)
            whole.append(total)
        ctx.head = head
        ctx.save_for_backward(states, labels, torch.cat(whole))
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        states, labels, whole = ctx.saved_tensors
        head, found = ctx.head, torch.empty_like(states)
        for start in range(0, len(states), TOKENS_AT_ONCE):
            part = slice(start, start + TOKENS_AT_ONCE)
            own = gradients[0][part, None].float()
            change = head(states[part]).float().sub_(whole[part, None]).exp_().mul_(-own)
            change.scatter_add_(1, labels[part, None], own)
            found[part] = _through(change.to(states.dtype), head)
        return found, None, None


def _through(change: Tensor, head: nn.Linear) -> Tensor:
    """The gradient of the states from that of the logits."""
    if isinstance(head, OneDNNLinear) and change.dtype == torch.float32:
        return product(change, head.weight.t())
    return change @ head.weight


def scores_of(model: Any, inputs: Mapping[str, Tensor], source: Int[Tensor, "2 M"], labels: Tensor) -> Tensor:
    """Log-probabilities [M] of tokens from the states at these rows and columns; no other state meets the head.

    Args:
        model: A PEFT model whose base has TRL's fused LM head.
        inputs: What the body of the base takes.
        source: Rows and columns of the states that predict the tokens.
        labels: The tokens.
    """
    causal = model.get_base_model()
    if plain_head(causal):
        states = causal.base_model(**inputs, use_cache=False).last_hidden_state
        return token_scores(states[source[0], source[1]], causal.get_output_embeddings(), labels)

    def pick(module: nn.Module, args: Any, out: Any) -> Any:
        out.last_hidden_state = out.last_hidden_state[source[0], source[1]].unsqueeze(0)
        return out

    handle = causal.base_model.register_forward_hook(pick)
    try:
        found: Tensor = model(**inputs, shift_labels=labels.unsqueeze(0), fused_lm_head=True).log_probs[0]
    finally:
        handle.remove()
    return found
