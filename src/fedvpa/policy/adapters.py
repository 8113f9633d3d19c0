"""The weights that stage 2 moves: copied, put back, checked, drawn anew."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from fedvpa.core.errors import RunError
from fedvpa.core.seeds import Label, entropy
from fedvpa.policy.policy import Policy

ADAPTER = "default"
"""PEFT's name of the adapter that is trained."""


def snapshot(policy: Policy) -> dict[str, Tensor]:
    """A copy of the trained weights."""
    return {name: copy.deepcopy(weight.detach()) for name, weight in policy.trained().items()}


@torch.no_grad()
def restore(policy: Policy, weights: dict[str, Tensor]) -> None:
    """Put a :func:`snapshot` back."""
    for name, weight in policy.trained().items():
        weight.copy_(weights[name])


def adapter_scale(policy: Policy) -> float:
    """The scale α/r: the adapter changes a frozen weight by α/r · B·A."""
    shape = policy.model.peft_config[ADAPTER]
    return float(shape.lora_alpha / shape.r)


def check_fits(policy: Policy, weights: Mapping[str, Tensor]) -> None:
    """Whether ``weights`` are a :func:`snapshot` of such a policy.

    Raises:
        RunError: If names or shapes differ; says which first.
    """
    wanted = {name: tuple(leaf.shape) for name, leaf in policy.trained().items()}
    given = {name: tuple(leaf.shape) for name, leaf in weights.items()}
    if wanted != given:
        odd = next(name for name in sorted(wanted.keys() | given.keys()) if wanted.get(name) != given.get(name))
        raise RunError(
            f"The state to go on from has {given.get(odd)} for {odd}, and the policy {wanted.get(odd)}.",
            fix="Build the policy with the model and lora_rank of that run.",
        )


def new_adapter(policy: Policy, seed: int, *path: Label) -> dict[str, Tensor]:
    """Initial weights of a further LoRA of the same shape; the policy gets them too.

    Args:
        policy: Without conditioner.
        seed: Names, with ``path``, the weights.
        *path: Labels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy(seed, *path) % 2**63)
        for layer in policy.modules():
            if isinstance(layer, LoraLayer):
                layer.reset_lora_parameters(ADAPTER, True)
    return snapshot(policy)
