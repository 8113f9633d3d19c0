"""Reward heads r(h; z): how a latent changes what a response is worth.

``bilinear`` and ``mlp`` score each response, so swapping the two responses of a pair flips the logit. ``residual`` is
the head as published (FedVPA-GP, E2/E11): z adds a bias to the two answer positions and never sees the responses, so
it cannot express which *response* a user prefers; it is here to reproduce that. ``linear`` has no W: z is added to w₀,
r = (w₀ + z)ᵀh, so k = d and a z is a whole head of the user's own.

Shapes: h and Δ have [*clients, n, d]; z has [*clients, m, k], m latents (hypotheses) per client; margins have
    [*clients, m, n].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.errors import ConfigError
from fedvpa.core.tree import Tree, below, prefixed
from fedvpa.selector.config import HeadKind, SelectorConfig
from fedvpa.selector.mlp import apply_mlp, init_mlp
from fedvpa.selector.pairs import Pairs

Margins = Float[Tensor, "*clients m n"]


@dataclass(frozen=True)
class Head:
    """One kind of reward head, as pure functions of its weights.

    Attributes:
        init: (d, config, generator) → weights.
        rewards: (weights, h [*, n, d], z [*, m, k]) → rewards [*, m, n].
        margins: (weights, pairs, z [*, m, k]) → r(chosen) − r(rejected) [*, m, n]. ``base_keep`` [*, n] scales the
            z-free part.
        linear: (weights, pairs) → (offset [*, n], slope [*, n, k]) with margin = offset + slope·z; None where the
            margin is not linear in z because of the responses.
        personal: The names of weights that act through z alone.
    """

    init: Callable[[int, SelectorConfig, torch.Generator], Tree]
    rewards: Callable[[Tree, Tensor, Tensor], Margins]
    margins: Callable[[Tree, Pairs, Tensor, Tensor | None], Margins]
    linear: Callable[[Tree, Pairs], tuple[Tensor, Tensor]] | None
    personal: frozenset[str]


def _init_bilinear(d: int, config: SelectorConfig, generator: torch.Generator) -> Tree:
    personal = torch.randn(config.latent, d, generator=generator) * config.head_scale * d**-0.5
    return {"base": torch.zeros(d), "personal": personal}


def _directions(weights: Tree, z: Float[Tensor, "*clients m k"]) -> Float[Tensor, "*clients m d"]:
    return z @ weights["personal"]


def _bilinear_rewards(weights: Tree, h: Tensor, z: Tensor) -> Margins:
    return (weights["base"].unsqueeze(-2) + _directions(weights, z)) @ h.mT


def _bilinear_on(weights: Tree, delta: Tensor, z: Tensor, base_keep: Tensor | None) -> Margins:
    base = (weights["base"].unsqueeze(-2) @ delta.mT).squeeze(-2)
    if base_keep is not None:
        base = base * base_keep
    return base.unsqueeze(-2) + _directions(weights, z) @ delta.mT


def _bilinear_margins(weights: Tree, pairs: Pairs, z: Tensor, base_keep: Tensor | None = None) -> Margins:
    return _bilinear_on(weights, pairs.delta, z, base_keep)


def _linear_on(weights: Tree, delta: Tensor) -> tuple[Tensor, Tensor]:
    return (delta @ weights["base"].unsqueeze(-1)).squeeze(-1), delta @ weights["personal"].mT


def _init_linear(d: int, config: SelectorConfig, generator: torch.Generator) -> Tree:
    if config.latent != d:
        raise ConfigError(
            f"The head 'linear' adds z to weights for {d} features, and selector.latent is {config.latent}.",
            fix=f"Set selector.latent={d}, or use selector.head=bilinear.",
        )
    return {"base": torch.zeros(d)}


def _linear_rewards(weights: Tree, h: Tensor, z: Tensor) -> Margins:
    return (weights["base"].unsqueeze(-2) + z) @ h.mT


def _linear_margins(weights: Tree, pairs: Pairs, z: Tensor, base_keep: Tensor | None = None) -> Margins:
    base = (weights["base"].unsqueeze(-2) @ pairs.delta.mT).squeeze(-2)
    if base_keep is not None:
        base = base * base_keep
    return base.unsqueeze(-2) + z @ pairs.delta.mT


def _init_mlp_head(d: int, config: SelectorConfig, generator: torch.Generator) -> Tree:
    trunk = init_mlp((d, config.trunk_width), generator)
    return prefixed("trunk", trunk) | _init_bilinear(config.trunk_width, config, generator)


def _trunk(weights: Tree, h: Tensor) -> Tensor:
    return apply_mlp(below("trunk", weights), h, activation=torch.tanh)


def _mlp_margins(weights: Tree, pairs: Pairs, z: Tensor, base_keep: Tensor | None = None) -> Margins:
    return _bilinear_on(weights, _trunk(weights, pairs.chosen) - _trunk(weights, pairs.rejected), z, base_keep)


def _mlp_linear(weights: Tree, pairs: Pairs) -> tuple[Tensor, Tensor]:
    return _linear_on(weights, _trunk(weights, pairs.chosen) - _trunk(weights, pairs.rejected))


def _init_residual(d: int, config: SelectorConfig, generator: torch.Generator) -> Tree:
    # f_θ 32→64→32→2: the widths of the published code.
    bias = init_mlp((config.latent, 64, 32, 2), generator)
    return {"base": torch.zeros(d)} | prefixed("personal", bias)


def _residual_rewards(weights: Tree, h: Tensor, z: Tensor) -> Margins:
    base = (weights["base"].unsqueeze(-2) @ h.mT).squeeze(-2).unsqueeze(-2)
    return base.expand(*base.shape[:-2], z.shape[-2], base.shape[-1])


def _residual_margins(weights: Tree, pairs: Pairs, z: Tensor, base_keep: Tensor | None = None) -> Margins:
    base = (weights["base"].unsqueeze(-2) @ pairs.delta.mT).squeeze(-2)
    if base_keep is not None:
        base = base * base_keep
    position = apply_mlp(below("personal", weights), z, final=False)
    bias = (position[..., 0] - position[..., 1]).unsqueeze(-1)
    return base.unsqueeze(-2) + pairs.slot.unsqueeze(-2) * bias


HEADS: dict[HeadKind, Head] = {
    "bilinear": Head(
        _init_bilinear,
        _bilinear_rewards,
        _bilinear_margins,
        lambda weights, pairs: _linear_on(weights, pairs.delta),
        frozenset({"personal"}),
    ),
    "linear": Head(
        _init_linear,
        _linear_rewards,
        _linear_margins,
        lambda weights, pairs: ((pairs.delta @ weights["base"].unsqueeze(-1)).squeeze(-1), pairs.delta),
        frozenset(),
    ),
    "mlp": Head(
        _init_mlp_head,
        lambda weights, h, z: _bilinear_rewards(weights, _trunk(weights, h), z),
        _mlp_margins,
        _mlp_linear,
        frozenset({"personal"}),
    ),
    "residual": Head(_init_residual, _residual_rewards, _residual_margins, None, frozenset()),
}
