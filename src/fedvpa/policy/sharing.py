"""Whether a policy can read several responses to a prompt in one row."""

from __future__ import annotations

import inspect
import sys
from typing import Any
from weakref import WeakKeyDictionary

import torch

from fedvpa.core.progress import say
from fedvpa.models.agreement import AGREEMENT, REJECTIONS, probe_tokens, relative_difference
from fedvpa.models.architecture import attention_window
from fedvpa.policy.network import PolicyNetwork
from fedvpa.policy.trees import trees

_found: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def sharing_room(policy: PolicyNetwork) -> int:
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
def sharing_obstacle(policy: PolicyNetwork) -> str:
    """Why a prompt cannot be computed once for several responses; empty if it can.

    Compares the log-probabilities of a small batch under the reference by rows of their own and by shared ones.
    """
    causal = policy.model.get_base_model()
    if "position_ids" not in inspect.signature(causal.base_model.forward).parameters:
        return "the model takes no position ids"
    tokens = probe_tokens(causal, 29)
    prompts, groups = [tokens[:5], tokens[5:8]], [[tokens[8:12], tokens[12:15]], [tokens[15:22], tokens[22:29]]]
    with policy.reference() as base:
        layout = base.layout
        flat = [response for group in groups for response in group]
        repeated = [prompt for prompt in prompts for _ in range(2)]
        alone = base(layout.rows(repeated, flat).to(base.device), None).sum(1)
        try:
            together = base(trees(layout, prompts, groups).to(base.device), None).sum(1)
        except REJECTIONS as error:
            return f"the model rejects a custom mask ({type(error).__name__})"
    difference = relative_difference(together, alone)
    # Written so that NaN counts as disagreement.
    if not difference <= AGREEMENT[causal.dtype]:
        return f"a shared prompt changes the log-probabilities (by {difference:.1e} of their norm)"
    return ""
