"""How z enters the policy: into its LoRA, or into the embeddings of the prompt's first tokens or of all tokens.

Whatever z is, a policy that nothing has trained is its base: a fresh LoRA gives nothing, and the maps to embeddings
start at zero. It learns from the first step all the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor, nn

from fedvpa.core.errors import ConfigError
from fedvpa.policy.config import Conditioning

Placement = Literal["added", "inserted"]
"""Where a soft prefix stands: ``added`` to the first tokens of the prompt; or ``inserted`` before them, as virtual
tokens of its own, which is how policies of releases up to 0.4 have it."""


GATE_STD = 1.0
"""Standard deviation of a fresh M: at a z of length 1, as prototypes have it, gates are 1 ± 1. Chosen by us."""


def gated_factors(adapted: nn.Module) -> list[Any]:
    """The factors A of a LoRA, as linear layers, whose output z may scale: not those of experts, which mix rows."""
    return [
        factor
        for name, layer in adapted.named_modules()
        if isinstance(layer, LoraLayer) and not isinstance(layer, ParamWrapper) and ".experts" not in name
        for factor in layer.lora_A.values()
    ]


class Conditioner(nn.Module):
    """z ↦ what the policy sees of it.

    A gated LoRA changes a frozen weight by B·diag(1 + M·z)·A: z scales the directions that the LoRA reads its input by,
    in every layer, as FiLM scales features (Perez et al., arXiv 1709.07871). M is random from the start and B is zero,
    so that the first step can tell one z from another. Without z the adapter is an ordinary one.

    A soft prefix is prompt tuning that starts from the text which is there (Lester et al., arXiv 2104.08691, section
    3.2, start from embeddings of the vocabulary): under a chat template its first tokens are the header and the system
    turn, the same for every prompt. Virtual tokens of their own, between special tokens and prompt, cost a chat model
    1.3 to 2.8 nats an answer before anything is learned.

    Args:
        kind: ``gated_lora``, ``soft_prefix`` or ``additive``.
        latent: k, the size of z.
        width: Numbers of a token's embedding; of a gated LoRA, the directions of all layers together.
        tokens: Of a soft prefix.
        placement: Of a soft prefix.
    """

    def __init__(
        self, kind: Conditioning, latent: int, width: int, tokens: int, placement: Placement = "added"
    ) -> None:
        super().__init__()
        self.kind, self.latent, self.hidden, self.placement = kind, latent, width, placement
        self.tokens = tokens if kind == "soft_prefix" else 0
        self.gates: Tensor | None = None
        self.map = nn.Linear(latent, width * max(self.tokens, 1), bias=kind == "soft_prefix")
        for weight in self.map.parameters():
            if kind == "gated_lora":
                nn.init.normal_(weight, std=GATE_STD)
            else:
                nn.init.zeros_(weight)

    def attach(self, adapted: nn.Module) -> None:
        """Let a gated LoRA's layers see z; of other kinds nothing happens."""
        if self.kind != "gated_lora":
            return
        start = 0
        for factor in gated_factors(adapted):
            stop = start + factor.weight.shape[0]
            factor.register_forward_hook(partial(self._gate, start, stop))
            start = stop

    @torch.no_grad()
    def fold(self, adapted: nn.Module, z: Float[Tensor, " k"]) -> None:
        """Put the gates of one z into the factors A of a gated LoRA for good, which is an ordinary LoRA from then on.

        B·(diag(1 + M·z)·A) is (B·diag(1 + M·z))·A: no later computation needs z or this conditioner.

        Args:
            adapted: What :meth:`attach` was called with.
            z: The latent.
        """
        gates, start = 1 + self.map(z.to(self.map.weight)), 0
        for factor in gated_factors(adapted):
            stop = start + len(factor.weight)
            factor.weight.mul_(gates[start:stop, None].to(factor.weight))
            start = stop

    def _gate(self, start: int, stop: int, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        if self.gates is None:
            return out
        if out.ndim != 3:
            raise ConfigError(
                "This architecture does not keep its rows apart, so that its LoRA cannot be gated.",
                fix="Set policy.conditioning=soft_prefix.",
            )
        return out * self.gates[:, None, start:stop].to(out.dtype)

    @property
    def slots(self) -> int:
        """Virtual tokens for which a row needs room."""
        return self.tokens if self.placement == "inserted" else 0

    def made(self, z: Float[Tensor, "batch k"]) -> Float[Tensor, "batch numbers"]:
        """What a row hears of its z: the gates of all directions, a soft prefix, or what is added to embeddings."""
        found: Tensor = self.map(z.to(self.map.weight.dtype))
        return 1 + found if self.kind == "gated_lora" else found

    def prefix(
        self,
        embeddings: Float[Tensor, "batch time hidden"],
        first: Int[Tensor, " batch"],
        prompt: Bool[Tensor, "batch time"],
        z: Float[Tensor, "batch k"],
    ) -> Float[Tensor, "batch time hidden"]:
        """Embeddings with the soft prefix of z in them.

        Args:
            embeddings: Of token rows.
            first: The place behind the special tokens in front of each prompt; the slots, if any, begin there.
            prompt: Which tokens are of the prompt. A prompt shorter than the prefix takes as much of it as it has
                tokens.
            z: A latent per row.
        """
        made = self.made(z).to(embeddings.dtype).view(len(z), self.tokens, self.hidden)
        places = first.unsqueeze(1) + torch.arange(self.tokens, device=first.device)
        if self.placement == "inserted":
            return embeddings.scatter(1, places.unsqueeze(-1).expand(-1, -1, self.hidden), made)
        inside = places.clamp(max=embeddings.shape[1] - 1)
        there = (places == inside) & prompt.gather(1, inside)
        index = inside.unsqueeze(-1).expand(-1, -1, self.hidden)
        return embeddings.scatter_add(1, index, made * there.unsqueeze(-1))

    @contextlib.contextmanager
    def heard(self, embed: nn.Module, z: Float[Tensor, "batch k"] | None, *, training: bool) -> Iterator[None]:
        """While inside, z is in what the model computes, tokens being generated included; a soft prefix needs nothing.

        Args:
            embed: The model's input embeddings.
            z: A latent per row.
            training: Whether a gradient follows. Gates then stay until the next z, since checkpointed layers are
                computed again for it.
        """
        if self.kind == "gated_lora" and z is not None:
            self.gates = self.made(z)
            try:
                yield
            finally:
                if not training:
                    self.gates = None
            return
        if self.kind != "additive" or z is None:
            yield
            return
        made = self.made(z).unsqueeze(1)
        handle = embed.register_forward_hook(lambda module, args, out: out + made.to(out.dtype))
        try:
            yield
        finally:
            handle.remove()
