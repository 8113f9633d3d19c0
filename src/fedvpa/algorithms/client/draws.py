"""All randomness of one client in one round, drawn from (seed, round, client id) before any computation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedvpa.algorithms.config import LocalConfig
from fedvpa.core.seeds import numpy_generator
from fedvpa.core.short_repr import short_repr


@dataclass(frozen=True, repr=False)
class Draws:
    """Which pairs each local step uses, and its noise. Leading client axes are added by :func:`pad_draws`.

    Attributes:
        context: Rows of the client's pairs that z is inferred from, shape [*clients, steps, c].
        context_present: 1, or 0 for padding, same shape.
        target: Rows that are predicted; never in the same step's context, shape [*clients, steps, t].
        target_present: 1, or 0 for padding, same shape.
        noise: ε of the reparameterised sample, shape [*clients, steps, k].
        gumbel: Gumbel(0, 1) noise of the mixture weights, shape [*clients, steps, j].
        base_keep: 0 where the z-free part of a target's logit is dropped, else 1, shape [*clients, steps, t].
        encoder_keep: A dropout mask per hidden layer of the pair MLP, shape [*clients, steps, c, width]; empty without
            dropout.
        memberships: Over the components of a mixture, shape [*clients, components], while they are drawn and not
            inferred; empty otherwise.
    """

    context: Int[Tensor, "*clients steps c"]
    context_present: Float[Tensor, "*clients steps c"]
    target: Int[Tensor, "*clients steps t"]
    target_present: Float[Tensor, "*clients steps t"]
    noise: Float[Tensor, "*clients steps k"]
    gumbel: Float[Tensor, "*clients steps j"]
    base_keep: Float[Tensor, "*clients steps t"]
    encoder_keep: tuple[Float[Tensor, "*clients steps c _"], ...] = ()
    memberships: Float[Tensor, "*clients components"] = field(default_factory=lambda: torch.zeros(0))

    __repr__ = short_repr

    def only(self, step: int) -> Draws:
        """The draws of one client's round that has this local step alone."""
        own = slice(step, step + 1)
        stepwise = [part.name for part in fields(self) if part.name not in ("encoder_keep", "memberships")]
        each = {name: getattr(self, name)[own] for name in stepwise}
        masks = tuple(mask[own] for mask in self.encoder_keep)
        return Draws(**each, encoder_keep=masks, memberships=self.memberships)


def split_sizes(pairs: int, local: LocalConfig) -> tuple[int, int]:
    """Sizes of (context, target) of one step: disjoint, one fold to predict and the rest to infer z from.

    A client with one pair predicts it without context, that is, from the prior.
    """
    target = min(local.target_size, -(-pairs // local.folds))
    return min(local.context_size, pairs - target), target


def draw(
    seed: int,
    round_: int,
    client_id: str,
    pairs: int,
    local: LocalConfig,
    *,
    latent: int = 0,
    components: Sequence[int] = (),
    base_dropout: float = 0.0,
    dropout: float = 0.0,
    widths: Sequence[int] = (),
) -> Draws:
    """Draw everything for one client, each kind of noise from a stream of its own.

    The client's pairs are shuffled once a round; step e predicts the e-th slice of them, cyclically, and the slice
    that follows is its context.

    Args:
        seed: The run's seed.
        round_: The round.
        client_id: The client.
        pairs: How many training pairs it holds.
        local: Steps and sizes.
        latent: k.
        components: Ids of the components of the mixture prior: each has a stream, so that the noise of one does not
            depend on its place, nor on the others.
        base_dropout: Probability of dropping the z-free part of a logit.
        dropout: Dropout rate of the pair MLP.
        widths: Widths of its hidden layers.
    """

    def stream(*purpose: str | int) -> np.random.Generator:
        return numpy_generator(seed, "client", round_, client_id, *purpose)

    context_size, target_size = split_sizes(pairs, local)
    order = stream().permutation(pairs)
    starts = target_size * np.arange(local.steps)[:, None]
    window = (starts + np.arange(target_size + context_size)) % max(pairs, 1)
    rows = torch.from_numpy(order[window].astype(np.int64))
    target, context = rows[:, :target_size], rows[:, target_size:]
    gumbel = [stream("gumbel", key).gumbel(size=local.steps) for key in components]
    return Draws(
        context,
        torch.ones(context.shape),
        target,
        torch.ones(target.shape),
        _normal(stream("noise"), local.steps, latent),
        torch.from_numpy(np.array(gumbel, dtype=np.float32).reshape(-1, local.steps).T.copy()),
        _keep(stream("base"), base_dropout, target.shape) if base_dropout else torch.ones(target.shape),
        tuple(
            _keep(stream("encoder", layer), dropout, (*context.shape, width)) / (1 - dropout)
            for layer, width in enumerate(widths if dropout else ())
        ),
    )


def without_steps(memberships: Float[Tensor, " c"] | None = None) -> Draws:
    """Of a client that takes no local steps: nothing but the memberships, if they are drawn."""
    rows, ones = torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, 0)
    drawn = Draws(rows, ones, rows, ones, ones, ones, ones)
    return drawn if memberships is None else replace(drawn, memberships=memberships)


def _normal(rng: np.random.Generator, steps: int, latent: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal((steps, latent), dtype=np.float32))


def _keep(rng: np.random.Generator, rate: float, shape: Sequence[int]) -> Tensor:
    return torch.from_numpy((rng.random(tuple(shape), dtype=np.float32) >= rate).astype(np.float32))


def pad_draws(clients: Sequence[Draws]) -> Draws:
    """Stack the draws of clients of unequal size; padding points to row 0 and is absent."""

    def stacked(name: str) -> Tensor:
        return _pad([getattr(client, name) for client in clients])

    masks = zip(*(client.encoder_keep for client in clients), strict=True)
    return Draws(
        context=stacked("context"),
        context_present=stacked("context_present"),
        target=stacked("target"),
        target_present=stacked("target_present"),
        noise=stacked("noise"),
        gumbel=stacked("gumbel"),
        base_keep=stacked("base_keep"),
        encoder_keep=tuple(_pad(list(layer)) for layer in masks),
        memberships=stacked("memberships"),
    )


def _pad(tensors: Sequence[Tensor]) -> Tensor:
    shape = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    padded = tensors[0].new_zeros(len(tensors), *shape)
    for row, tensor in zip(padded, tensors, strict=True):
        row[tuple(slice(0, size) for size in tensor.shape)] = tensor
    return padded
