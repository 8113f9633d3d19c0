"""Whether a policy can read several responses to a prompt in one row."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from fedvpa.core.progress import say
from fedvpa.models.architecture import attention_window
from fedvpa.policy.trees import trees

if TYPE_CHECKING:
    from fedvpa.policy.model import PolicyModel

AGREEMENT = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of two computations of the same log-probabilities, relative to their norm, as for features."""

_found: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def sharing_room(policy: PolicyModel) -> int:
    """The most tokens of a row that holds several responses: the attention window of the base; 0 where it cannot.

    Computed once for each base, by a few tokens both ways; that a base cannot is said.
    """
    causal = policy.model.get_base_model()
    if causal not in _found:
        obstacle = sharing_obstacle(policy)
        if obstacle:
            say(f"{policy.source.name}: prompts are computed anew for each response, since {obstacle}")
        window = attention_window(causal.config.get_text_config())
        _found[causal] = 0 if obstacle else sys.maxsize if window is None else window
    return _found[causal]


@torch.no_grad()
def sharing_obstacle(policy: PolicyModel) -> str:
    """Why a prompt cannot be computed once for several responses; empty if it can.

    Compares the log-probabilities of a small batch under the reference by rows of their own and by shared ones.
    """
    causal = policy.model.get_base_model()
    if "position_ids" not in inspect.signature(causal.base_model.forward).parameters:
        return "the model takes no position ids"
    size = int(causal.get_input_embeddings().num_embeddings)
    tokens = ((np.arange(29) * 97 + 11) % size).astype(np.int32)
    prompts, groups = [tokens[:5], tokens[5:8]], [[tokens[8:12], tokens[12:15]], [tokens[15:22], tokens[22:29]]]
    with policy.reference() as base:
        layout = base.layout
        flat = [response for group in groups for response in group]
        repeated = [prompt for prompt in prompts for _ in range(2)]
        alone = base(layout.rows(repeated, flat).to(base.device), None).sum(1).float()
        try:
            together = base(trees(layout, prompts, groups).to(base.device), None).sum(1).float()
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
            return f"the model rejects a custom mask ({type(error).__name__})"
    difference = float((alone - together).norm() / alone.norm())
    # Written so that NaN counts as disagreement.
    if not difference <= AGREEMENT[causal.dtype]:
        return f"a shared prompt changes the log-probabilities (by {difference:.1e} of their norm)"
    return ""
