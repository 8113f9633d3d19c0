"""The amortised posterior q_φ(z | context) (FedVPA-GP, E1), as a set encoder.

Published, z is encoded from the very pair that is then predicted. Here the embeddings of a *context* of labelled pairs
are averaged, and targets are other pairs. Swapping a label flips the sign of that pair's Δh, which is how labels reach
z.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.selector.config import EncoderConfig
from fedvpa.selector.mlp import apply_mlp, init_mlp, linear


def init_encoder(d: int, latent: int, config: EncoderConfig, generator: torch.Generator) -> Tree:
    """Weights: ``pair`` (d → pair_widths), ``set`` (→ set_widths) and ``head`` (→ 2k: means, then log-variances)."""
    set_widths = (config.pair_widths[-1], *config.set_widths)
    return (
        prefixed("pair", init_mlp((d, *config.pair_widths), generator))
        | prefixed("set", init_mlp(set_widths, generator))
        | prefixed("head", init_mlp((set_widths[-1], 2 * latent), generator))
    )


def encode(
    weights: Tree,
    delta: Float[Tensor, "*clients n d"],
    weight: Float[Tensor, "*clients n"],
    config: EncoderConfig,
    keep: Sequence[Tensor] = (),
) -> tuple[Float[Tensor, "*clients k"], Float[Tensor, "*clients k"]]:
    """Mean and log-variance of q(z | context).

    Args:
        weights: From :func:`init_encoder`.
        delta: Δh of the context pairs.
        weight: Their weights; 0 for padding. Without any context the pooled embedding is zero.
        config: Shapes and the variance cap log σ² ← min(log σ², log σ²_max).
        keep: Dropout masks of the pair MLP, one per hidden layer; empty for none.
    """
    embedded = apply_mlp(below("pair", weights), delta, keep=keep)
    share = weight / weight.sum(-1, keepdim=True).clamp(min=1e-12)
    pooled = share.unsqueeze(-2) @ embedded
    hidden = apply_mlp(below("set", weights), pooled)
    mean, log_var = linear(below("head", weights), 0, hidden).squeeze(-2).chunk(2, dim=-1)
    return mean, torch.clamp(log_var, max=config.max_log_var)
