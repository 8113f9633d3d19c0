"""A LoRA whose rows differ: each row of a batch has gates of its own, and a row whose gates are zero is the base model.

A gated LoRA changes a frozen weight W by B·diag(g)·A, with g = 1 + M·z. Of this only g depends on the user. So for as
long as the policy serves, A is stacked below W, one product gives W·x and A·x, and of layers that read the same input
(queries, keys and values; gate and up) one product serves all: [W₁; W₂; …; A₁; A₂; …]·x. Each B, the scale α/r in it,
then adds what its gated A·x say. W lies in memory once: the model's own weights are views of the stack.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear

from fedvpa.core.short_repr import short_repr
from fedvpa.models.agreement import probe_tokens
from fedvpa.models.products import OneDNNLinear, product
from fedvpa.policy.adapters import ADAPTER

Gates = Float[Tensor, "rows directions"]

BLOCK = 64
"""Tokens for which a CPU adds what B say at once, so that the outputs stay in the processor's cache. Measured on layers
of SmolLM2-135M with 1,024 tokens: gate and up take 18.5 ms, and 22.0 ms without blocks."""


class RowwiseAdapter:
    """The LoRA of a policy, attached such that rows differ; the model is the ordinary one again after :meth:`detach`.

    Args:
        model: A PEFT model for which :func:`obstacle` is empty.
    """

    def __init__(self, model: Any) -> None:
        layers = [_Layer.of(module) for module in model.modules() if isinstance(module, Linear)]
        starts, directions = {}, 0
        for layer in layers:
            starts[id(layer.module)] = directions
            directions += len(layer.below)
        self._groups = [_Group(group) for group in _by_input(model, layers)]
        parts = [
            torch.arange(len(layer.below)) + starts[id(layer.module)]
            for group in self._groups
            for layer in group.layers
        ]
        self._order = torch.cat(parts).to(model.device)
        self._ranks = [group.rank for group in self._groups]
        self.directions = len(self._order)
        """Directions of all layers together: how many gates a row has."""
        self.dtype = layers[0].below.dtype
        """What it computes in."""

    def arranged(self, gates: Gates) -> Gates:
        """Gates in the order of the model's layers → in the order in which :meth:`gated` takes them."""
        return gates.to(self.dtype)[:, self._order]

    @contextlib.contextmanager
    def gated(self, gates: Gates | None) -> Iterator[None]:
        """While inside, the adapter acts on each row by these gates; None for the base model."""
        parts: Sequence[Tensor | None] = [None] * len(self._groups)
        if gates is not None:
            parts = gates[:, None].split(self._ranks, dim=2)
        for group, part in zip(self._groups, parts, strict=True):
            group.gates = part
        try:
            yield
        finally:
            for group in self._groups:
                group.forget()

    def detach(self) -> None:
        """Put the layers back as they were."""
        for group in self._groups:
            group.detach()


@dataclass(frozen=True, slots=True, repr=False)
class _Layer:
    """A linear layer with its LoRA: W, A and α/r · B."""

    module: Any
    base: Any
    below: Tensor
    above: Tensor

    __repr__ = short_repr

    @classmethod
    def of(cls, module: Any) -> _Layer:
        base, dtype = module.get_base_layer(), module.get_base_layer().weight.dtype
        below = module.lora_A[ADAPTER].weight.detach().to(dtype)
        above = (module.lora_B[ADAPTER].weight.detach() * module.scaling[ADAPTER]).to(dtype)
        return cls(module, base, below, above)


class _Group:
    """Linear layers that read the same input."""

    def __init__(self, layers: Sequence[_Layer]) -> None:
        self.layers = layers
        self.rank = sum(len(layer.below) for layer in layers)
        self._above = [layer.above.t().contiguous() for layer in layers]
        self._ranks = [len(layer.below) for layer in layers]
        self.gates: Tensor | None = None
        weights = [layer.base.weight.detach() for layer in layers]
        self._sizes = [len(weight) for weight in weights]
        self._outputs = sum(self._sizes)
        self._multiply = product if isinstance(layers[0].base, OneDNNLinear) else linear
        whole = torch.cat(weights + [layer.below for layer in layers])
        bias = _biases([layer.base for layer in layers], self.rank)
        self._of_all = whole, bias
        self._of_base = whole[: self._outputs], None if bias is None else bias[: self._outputs]
        self._source: Tensor | None = None
        self._made: Sequence[Tensor] = ()
        for place, (layer, weight) in enumerate(zip(layers, whole.split([*self._sizes, self.rank]), strict=False)):
            layer.base.weight.data = weight
            layer.module.forward = partial(self._forward, place)

    def _forward(self, place: int, states: Tensor) -> Tensor:
        if states is not self._source:
            self._source, self._made = states, self._product(states).split(self._sizes, dim=-1)
        return self._made[place]

    def _product(self, states: Tensor) -> Tensor:
        if self.gates is None:
            return self._multiply(states, *self._of_base)
        found, said = self._multiply(states, *self._of_all).split([self._outputs, self.rank], -1)
        flat, heard = found.flatten(0, -2), (said * self.gates).flatten(0, -2)
        if len(flat) <= BLOCK or flat.device.type != "cpu":
            self._add(flat, heard)
        else:
            for block in zip(flat.split(BLOCK), heard.split(BLOCK), strict=True):
                self._add(*block)
        return found

    def _add(self, found: Tensor, heard: Tensor) -> None:
        """Add B·heard of each layer to its outputs."""
        if len(self._above) == 1:
            found.addmm_(heard, self._above[0])
            return
        parts = zip(found.split(self._sizes, 1), heard.split(self._ranks, 1), self._above, strict=True)
        for own, part, above in parts:
            own.addmm_(part, above)

    def forget(self) -> None:
        """Hold nothing of the last batch."""
        self.gates = self._source = None
        self._made = ()

    def detach(self) -> None:
        """Put the layers back as they were, each with a weight of its own."""
        for layer in self.layers:
            del layer.module.forward
            layer.base.weight.data = layer.base.weight.data.clone()


def _biases(bases: Sequence[Any], rank: int) -> Tensor | None:
    """The biases of all layers, zero where one has none and for A; None if none has one."""
    if all(base.bias is None for base in bases):
        return None
    first = bases[0].weight
    parts = [first.new_zeros(len(base.weight)) if base.bias is None else base.bias.detach() for base in bases]
    return torch.cat([*parts, first.new_zeros(rank)])


def obstacle(model: Any) -> str:
    """Why the rows of a batch cannot have gates of their own; empty if they can."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    for name, layer in layers:
        base = layer.get_base_layer()
        if type(layer) is not Linear or type(base) not in (nn.Linear, OneDNNLinear) or ".experts" in name:
            return f"a LoRA sits on a {type(base).__name__} ({name.rpartition('.')[2]})"
        if set(layer.lora_A) != {ADAPTER} or layer.lora_variant or layer.lora_bias.get(ADAPTER) or layer.merged:
            return "its adapter is no ordinary LoRA"
    return "" if layers else "it has no LoRA"


@torch.no_grad()
def _by_input(model: Any, layers: Sequence[_Layer]) -> list[list[_Layer]]:
    """The layers in the order in which they compute, those together that follow each other with the same input."""
    seen: list[tuple[_Layer, Tensor]] = []

    def note(layer: _Layer, module: nn.Module, args: Any) -> None:
        seen.append((layer, args[0]))

    handles = [layer.module.register_forward_pre_hook(partial(note, layer)) for layer in layers]
    tokens = torch.from_numpy(probe_tokens(model.get_base_model(), 3))[None].to(model.device)
    try:
        model(input_ids=tokens.long())
    finally:
        for handle in handles:
            handle.remove()
    found: list[list[_Layer]] = []
    last = None
    for layer, states in seen:
        if states is last and type(layer.base) is type(found[-1][0].base):
            found[-1].append(layer)
        else:
            found.append([layer])
        last = states
    return found
