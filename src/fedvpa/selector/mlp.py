"""Multi-layer perceptrons as pure functions of a tree of weights, for any leading axes of weights and inputs.

A matrix product with a leading client axis on both sides is one batched GEMM, so the same code trains one client or a
whole cohort.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.tree import Tree


def init_mlp(widths: Sequence[int], generator: torch.Generator) -> Tree:
    """Weights of linear layers between consecutive ``widths``: uniform in ±1/√fan_in, as in ``torch.nn.Linear``."""
    tree: Tree = {}
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        bound = fan_in**-0.5
        tree[f"{layer}.weight"] = (2 * torch.rand(fan_in, fan_out, generator=generator) - 1) * bound
        tree[f"{layer}.bias"] = (2 * torch.rand(fan_out, generator=generator) - 1) * bound
    return tree


def linear(tree: Tree, layer: int, x: Float[Tensor, "*clients n d"]) -> Float[Tensor, "*clients n e"]:
    """X W + b of one layer."""
    bias, weight = tree[f"{layer}.bias"].unsqueeze(-2), tree[f"{layer}.weight"]
    return torch.baddbmm(bias, x, weight) if x.ndim == 3 == weight.ndim else x @ weight + bias


def apply_mlp(
    tree: Tree,
    x: Float[Tensor, "*clients n d"],
    *,
    activation: Callable[[Tensor], Tensor] = torch.relu,
    final: bool = True,
    keep: Sequence[Tensor] = (),
) -> Float[Tensor, "*clients n e"]:
    """The layers of ``tree`` in turn.

    Args:
        tree: From :func:`init_mlp`.
        x: Inputs.
        activation: After every layer but, unless ``final``, the last.
        final: Whether the last layer is activated too.
        keep: Dropout masks for the activated layers, already divided by the keep probability; empty for none.
    """
    layers = len(tree) // 2
    for layer in range(layers):
        x = linear(tree, layer, x)
        if final or layer < layers - 1:
            x = activation(x)
            if keep:
                x = x * keep[layer]
    return x
