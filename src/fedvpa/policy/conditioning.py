"""How z enters the policy: as virtual tokens before the prompt, or added to every input embedding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedvpa.policy.config import Conditioning

PREFIX_STD = 1.0
"""Standard deviation of a fresh prefix, relative to that of the token embeddings. Chosen by us: a prefix that looks
like tokens disturbs the base policy little and gives the attention something to read from the first step."""

ADDITIVE_STD = 1e-3
"""Standard deviation of a fresh additive map: the published one, for embeddings that are the rows of their table."""


@dataclass(frozen=True, slots=True)
class EmbeddingScale:
    """What the embedding module of a language model gives.

    Attributes:
        width: Numbers of an embedding.
        std: Their standard deviation.
        factor: By how much they are larger than the rows of the table: 1 for most models, √width for Gemma.
    """

    width: int
    std: float
    factor: float = 1.0


class Conditioner(nn.Module):
    """z ↦ what the policy sees of it.

    Args:
        kind: ``soft_prefix`` or ``additive``.
        latent: k, the size of z.
        scale: Of the policy's token embeddings, so that z is neither lost among them nor drowns them.
        tokens: Virtual tokens of a soft prefix.
        norm: Typical norm of z, so that the first prefix does not depend on the scale of z.
    """

    def __init__(self, kind: Conditioning, latent: int, scale: EmbeddingScale, tokens: int, norm: float) -> None:
        super().__init__()
        self.kind, self.latent, self.hidden, self.norm = kind, latent, scale.width, norm
        self.slots = tokens if kind == "soft_prefix" else 0
        width = scale.width * max(self.slots, 1)
        self.map = nn.Linear(latent, width, bias=kind == "soft_prefix")
        std = PREFIX_STD * scale.std / norm if kind == "soft_prefix" else ADDITIVE_STD * scale.factor
        nn.init.normal_(self.map.weight, std=std)
        if kind == "soft_prefix":
            nn.init.normal_(self.map.bias, std=PREFIX_STD * scale.std)

    def prefix(
        self, embeddings: Float[Tensor, "batch time hidden"], first: Int[Tensor, " batch"], z: Float[Tensor, "batch k"]
    ) -> Float[Tensor, "batch time hidden"]:
        """Embeddings with z as virtual tokens in their ``slots`` free places, from ``first`` on."""
        made = self.map(z.to(self.map.weight.dtype)).to(embeddings.dtype).view(len(z), self.slots, self.hidden)
        places = first.unsqueeze(1) + torch.arange(self.slots, device=first.device)
        return embeddings.scatter(1, places.unsqueeze(-1).expand(-1, -1, self.hidden), made)

    @contextlib.contextmanager
    def added(self, embed: nn.Module, z: Float[Tensor, "batch k"] | None) -> Iterator[None]:
        """While inside, ``embed`` adds the map of z to every token that it embeds, those being generated included.

        Without a latent, and for a soft prefix, nothing happens.
        """
        if self.kind != "additive" or z is None:
            yield
            return
        made = self.map(z.to(self.map.weight.dtype)).unsqueeze(1)
        handle = embed.register_forward_hook(lambda module, args, out: out + made.to(out.dtype))
        try:
            yield
        finally:
            handle.remove()
