"""A policy with LoRA factors and a residual on top: while clients train, and settled for good.

The exact average of adapters (``lora_averaging.py``) leaves a residual, which belongs to the frozen
weights. The base model stays as it is, so that it remains the reference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import linear

from fedvpa.algorithms.server.lora_averaging import A_SUFFIX, B_SUFFIX, change, factorise
from fedvpa.core import tree
from fedvpa.core.tree import Tree
from fedvpa.policy.adapters import ADAPTER, adapter_scale, restore
from fedvpa.policy.policy import Policy


@contextlib.contextmanager
def in_force(policy: Policy, factors: Tree, residual: Mapping[str, Tensor]) -> Iterator[None]:
    """While inside, ``policy`` has these factors and this residual. The reference policy stays the base.

    The residual is added to what a layer gives rather than to its weight: in bfloat16 it would be rounded away there.

    Args:
        policy: The policy.
        factors: LoRA factors, under PEFT's names.
        residual: Layer → what its frozen weight has got on top, shape [outputs, inputs]; may be empty.
    """
    restore(policy, factors)
    with contextlib.ExitStack() as hooks:
        for name, leaf in residual.items():
            handle = policy.get_submodule(name).register_forward_hook(_adding(leaf.to(policy.device)))
            hooks.callback(handle.remove)
        yield


@torch.no_grad()
def settle(policy: Policy, factors: Tree, residual: Tree) -> None:
    """Put factors and residual into the policy for good, which can then be generated from and saved as any other.

    With a residual the adapter gives way to one of higher rank, in place: the whole change of each layer, decomposed at
    its numerical rank. The base stays untouched, and a PEFT folder alone holds the policy; but it is as large as the
    change is full, up to the size of the adapted weights, and no longer fits what trained it.
    """
    if not residual:
        restore(policy, factors)
        return
    whole = tree.combine(torch.add, change(factors, adapter_scale(policy)), residual)
    split = {layer: factorise(leaf) for layer, leaf in whole.items()}
    rank = max(len(a) for a, _ in split.values())
    shape = replace(policy.model.peft_config[ADAPTER], r=rank, lora_alpha=rank)
    policy.model.delete_adapter(ADAPTER)
    policy.model.add_adapter(ADAPTER, shape)
    policy.model.set_adapter(ADAPTER)
    padded = {}
    for layer, (a, b) in split.items():
        gap = rank - len(a)
        padded[layer + A_SUFFIX] = torch.nn.functional.pad(a, (0, 0, 0, gap))
        padded[layer + B_SUFFIX] = torch.nn.functional.pad(b, (0, gap))
    restore(policy, padded)


def _adding(residual: Tensor) -> Callable[..., Tensor]:
    def add(layer: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if layer.disable_adapters:
            return output
        return (output + linear(inputs[0].to(residual.dtype), residual)).to(output.dtype)

    return add
