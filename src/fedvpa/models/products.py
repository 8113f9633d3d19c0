"""Matrix products of frozen float32 models on a CPU, by the faster of the two libraries that torch carries.

torch leaves a float32 product on x86 to MKL, which uses no AVX-512 on processors of other makers than Intel; oneDNN,
which torch uses for bfloat16, does. Measured on an AMD EPYC with AVX-512, one thread, layers of SmolLM2-135M: MKL 64 to
108 GFLOP/s, oneDNN 90 to 250, both in float32 and equal to rounding. So on such processors the linear layers of a
loaded model are computed by oneDNN; on all others torch's own choice stays.
"""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fedvpa.core.progress import say

LEAST = 65_536
"""Weights from which on a layer is large enough: below, the call costs as much as the product. Chosen by us."""

PROCESSOR = Path("/proc/cpuinfo")
"""Where Linux names the processor."""


def use_fast_products(model: nn.Module) -> int:
    """Let oneDNN compute the large float32 linear layers of a model, where it is the faster library.

    The layers keep their weights, names and gradients; they stay ``nn.Linear`` to all who ask.

    Args:
        model: Loaded and placed.

    Returns:
        How many layers changed.
    """
    if not onednn_is_faster():
        return 0
    changed = 0
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.numel() >= LEAST and _fits(module.weight):
            module.__class__ = OneDNNLinear
            changed += 1
    return changed


@lru_cache(maxsize=1)
def onednn_is_faster() -> bool:
    """Whether float32 products go to MKL on a processor on which MKL leaves AVX-512 unused."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or maker() == "GenuineIntel":
        return False
    return _works()


def maker() -> str:
    """Who made the processor, as it says itself: ``GenuineIntel``, ``AuthenticAMD`` …; empty where that is unknown."""
    try:
        lines = PROCESSOR.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        words = platform.processor().split()
        return words[-1] if words else ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


class OneDNNLinear(nn.Linear):
    """A linear layer whose float32 products on a CPU are oneDNN's; all others are torch's."""

    def forward(self, input: Tensor) -> Tensor:
        """X·Wᵀ + b: [..., inputs] → [..., outputs]."""
        if _fits(input) and _fits(self.weight) and not torch.is_autocast_enabled("cpu"):
            return product(input, self.weight, self.bias)
        return super().forward(input)


def product(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear`` by oneDNN, with its gradient: [..., inputs], [outputs, inputs] → [..., outputs].

    Args:
        states: Float32 on the CPU.
        weight: The same.
        bias: One number per output.
    """
    if not torch.is_grad_enabled():
        return _onednn(states, weight, bias)
    found: Tensor = _Product.apply(states, weight, bias)
    return found


class _Product(torch.autograd.Function):
    """The operation has no gradient in torch, so it is written out: dX = dY·W, dW = dYᵀ·X, db = Σ dY."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(states if weight.requires_grad else None, weight)
        return _onednn(states, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (above,) = gradients
        states, weight = ctx.saved_tensors
        own = _onednn(above, weight.t(), None) if ctx.needs_input_grad[0] else None
        flat = above.reshape(-1, above.shape[-1])
        of_weight = flat.t() @ states.reshape(-1, states.shape[-1]) if ctx.needs_input_grad[1] else None
        return own, of_weight, flat.sum(0) if ctx.needs_input_grad[2] else None


def _onednn(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
    return found


def _fits(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"


@torch.no_grad()
def _works() -> bool:
    """Whether this torch has the operation and gives the right product; said where it has not."""
    states = torch.linspace(-1, 1, 6).view(2, 3)
    weight = torch.linspace(0, 2, 12).view(4, 3)
    try:
        right = torch.allclose(_onednn(states, weight, None), linear(states, weight), atol=1e-5)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        say(f"oneDNN's float32 products cannot be used ({type(error).__name__}); those of MKL are")
        return False
    if not right:
        say("oneDNN's float32 products are wrong on this machine; those of MKL are used")
    return right
