"""Averaging LoRA adapters: three rules, one of them inexact.

An adapter changes a frozen weight by Δ = s·B·A, with s = α/r. What a server wants is the clients' mean change
Σ pᵢ·s·Bᵢ·Aᵢ. The mean of a product is not the product of the means, so the rules differ:

- ``avg``: A and B are averaged apart, as FedAvg does with any weights (OpenFedLLM, KDD 2024, arXiv 2402.06954). The
  change is then s·(Σ pᵢBᵢ)(Σ pᵢAᵢ), which is not the mean.
- ``ffa``: A stays at the random start that all clients share, and only B is trained and averaged (FFA-LoRA, ICLR 2024,
  arXiv 2403.12313). Exact, with half of the upload; the changes of all rounds share the row space of A.
- ``svd``: the products are averaged; their best rank-r part becomes the next factors, and what is left of them is a
  residual that the frozen weights get. Exact. FedEx-LoRA (ACL 2025, arXiv 2410.09432), with two deviations: there the
  factors are the means of Aᵢ and Bᵢ, and the residual is what these miss; the best rank-r part leaves the smallest
  residual instead. And A keeps its size (see :func:`exact_average`), which a mean keeps by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.short_repr import short_repr
from fedvpa.core.tree import Tree

Averaging = Literal["avg", "ffa", "svd"]

A_SUFFIX = ".lora_A.default.weight"
"""How PEFT ends the name of a factor A [rank, inputs] …"""
B_SUFFIX = ".lora_B.default.weight"
"""… and of a factor B [outputs, rank]."""


@dataclass(frozen=True, repr=False)
class ExactAverage:
    """One adapter in place of many.

    Attributes:
        factors: A and B of every adapted layer, under PEFT's names.
        residual: Layer → what its frozen weight gets on top, shape [outputs, inputs].
    """

    factors: Tree
    residual: Tree

    __repr__ = short_repr


def trained_factors(factors: Tree, averaging: Averaging) -> Tree:
    """The factors that clients train, and so send: for ``ffa`` B alone."""
    return {name: leaf for name, leaf in factors.items() if averaging != "ffa" or not name.endswith(A_SUFFIX)}


def layers(factors: Mapping[str, Tensor]) -> list[str]:
    """The names of the adapted layers."""
    return [name.removesuffix(A_SUFFIX) for name in factors if name.endswith(A_SUFFIX)]


def change(factors: Mapping[str, Tensor], scale: float) -> Tree:
    """Layer → s·B·A, what an adapter adds to its frozen weight, shape [outputs, inputs]."""
    return {
        layer: scale * (factors[layer + B_SUFFIX].double() @ factors[layer + A_SUFFIX].double()).float()
        for layer in layers(factors)
    }


def exact_average(clients: Sequence[Mapping[str, Tensor]], weights: Sequence[float], scale: float) -> ExactAverage:
    """``svd``: the best rank-r part of the mean product, and the rest as a residual.

    With U·S·Vᵀ the truncated decomposition of Σ pᵢ·Bᵢ·Aᵢ, A = c·Vᵀ and B = U·S/c, where c is the root mean square
    length of the rows of the clients' A. The even split √S·Vᵀ would shrink A to the size of the change, hence every
    later step with it, and leave a direction without any change (S = 0) unable to learn. Chosen by us.

    Args:
        clients: The factors of each client, all with the same names and shapes.
        weights: How much each counts: its pairs.
        scale: s = α/r.
    """
    shares = [weight / sum(weights) for weight in weights]
    factors, residual = {}, {}
    for layer in layers(clients[0]):
        ups = [client[layer + B_SUFFIX].double() for client in clients]
        downs = [client[layer + A_SUFFIX].double() for client in clients]
        rank, length = len(downs[0]), torch.stack(downs).square().sum(-1).mean().sqrt()
        left = torch.cat([share * up for share, up in zip(shares, ups, strict=True)], 1)
        right = torch.cat(downs)
        u, s, vh = product_svd(left, right)
        factors[layer + A_SUFFIX] = (length * vh[:rank]).float()
        factors[layer + B_SUFFIX] = (u[:, :rank] * s[:rank] / length).float()
        # What the rounded factors miss, rather than what lies beyond rank r: nothing is lost to rounding either.
        kept = factors[layer + B_SUFFIX].double() @ factors[layer + A_SUFFIX].double()
        residual[layer] = (scale * (left @ right - kept)).float()
    return ExactAverage({name: factors[name] for name in clients[0]}, residual)


def factorise(
    whole: Float[Tensor, "outputs inputs"],
) -> tuple[Float[Tensor, "rank inputs"], Float[Tensor, "outputs rank"]]:
    """(A, B) with B·A = ``whole``, of its numerical rank (at least 1): an adapter of scale 1 that is the whole change.

    The numerical rank is the one of NumPy's ``matrix_rank``: singular values above max(shape)·ε of the largest.
    """
    u, s, vh = torch.linalg.svd(whole.double(), full_matrices=False)
    rank = max(1, int((s > s[0] * max(whole.shape) * torch.finfo(torch.float32).eps).sum()))
    root = s[:rank].sqrt()
    return (root[:, None] * vh[:rank]).float(), (u[:, :rank] * root).float()


def product_svd(
    left: Float[Tensor, "outputs inner"], right: Float[Tensor, "inner inputs"]
) -> tuple[Float[Tensor, "outputs k"], Float[Tensor, " k"], Float[Tensor, "k inputs"]]:
    """The singular value decomposition of left·right at the cost of its inner size: QR of both, SVD of the core."""
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, s, vh = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    return q_left @ u, s, vh @ q_right.T
