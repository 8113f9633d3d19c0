"""The weights that stage 2 moves: copied, put back, checked, drawn anew."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
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
def restore(policy: Policy, weights: Mapping[str, Tensor]) -> None:
    """Put a :func:`snapshot` back.

    Raises:
        RunError: If it is of another policy.
    """
    check_fits(policy, weights)
    for name, weight in policy.trained().items():
        weight.copy_(weights[name])


@contextmanager
def training_only(policy: Policy, names: Collection[str]) -> Iterator[None]:
    """While inside, only these of the trained weights are trained."""
    fixed = [leaf for name, leaf in policy.trained().items() if name not in names]
    for leaf in fixed:
        leaf.requires_grad_(False)
    try:
        yield
    finally:
        for leaf in fixed:
            leaf.requires_grad_(True)


def adapter_scale(policy: Policy) -> float:
    """The scale α/r: the adapter changes a frozen weight by α/r · B·A."""
    shape = policy.model.peft_config[ADAPTER]
    return float(shape.lora_alpha / shape.r)


@torch.no_grad()
def put_adapter(policy: Policy, factors: Mapping[str, Tensor]) -> None:
    """Put LoRA factors into the policy for good; of another rank than its adapter's, in place of that.

    The scale α/r stays.

    Args:
        policy: Without conditioner.
        factors: Under PEFT's names, all of one rank.
    """
    ranks = {len(leaf) for name, leaf in factors.items() if ".lora_A." in name}
    shape = policy.model.peft_config[ADAPTER]
    if ranks != {shape.r}:
        (rank,) = ranks
        scaled = replace(shape, r=rank, lora_alpha=adapter_scale(policy) * rank)
        policy.model.delete_adapter(ADAPTER)
        policy.model.add_adapter(ADAPTER, scaled)
        policy.model.set_adapter(ADAPTER)
    restore(policy, dict(factors))


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
            f"The given adapter has {given.get(odd)} for {odd}, and the policy {wanted.get(odd)}.",
            fix="Build the policy with the model and lora_rank that it was trained with.",
        )


def new_factors(like: Mapping[str, Tensor], seed: int, *path: Label) -> dict[str, Tensor]:
    """Initial factors of a further LoRA of the same shape, as PEFT draws them: A as ``nn.Linear``, B = 0.

    Args:
        like: Factors under PEFT's names, in the order of the model's layers.
        seed: Names, with ``path``, the weights.
        *path: Labels.
    """
    found = {name: torch.zeros_like(leaf) for name, leaf in like.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy(seed, *path) % 2**63)
        for name, leaf in found.items():
            if ".lora_A." in name:
                torch.nn.init.kaiming_uniform_(leaf, a=math.sqrt(5))
    return found
