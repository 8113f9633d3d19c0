"""Which weights of a base model a LoRA sits on: every linear layer and every expert, and no router."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedvpa.core.errors import ConfigError
from fedvpa.core.progress import say
from fedvpa.policy.config import PolicyConfig

ROUTERS = re.compile(r"(.*\.)?(gate|router|shared_expert_gate)(\..*)?")
"""Modules of a mixture of experts that choose experts or weigh them, by the names that transformers gives them. A LoRA
on them would send tokens to experts that never saw such tokens."""

FULL = 0.99
"""Share of the weights from which on nothing needs to be said: what is left are small maps without a linear layer."""


def lora_config(base: nn.Module, config: PolicyConfig) -> LoraConfig:
    """A LoRA on all linear layers of ``base``, its experts among them.

    transformers keeps the weights of all experts of a layer in one parameter of three axes, which is no linear layer:
    those are named apart. PEFT cannot drop out before them, so under ``lora_dropout`` they stay as they are;
    :func:`adapt` tells.

    Args:
        base: A language model of transformers.
        config: Rank, α and dropout.
    """
    experts = sorted({".".join(name.split(".")[-2:]) for name, _ in expert_weights(base)})
    chosen: dict[str, Any] = {"target_modules": "all-linear"}
    if experts or _is_mixture(base):
        # Not by the shorthand: PEFT reads it as the routers too, for the families whose routers once were linear.
        chosen = {"target_modules": [name for name, _ in linear_layers(base) if not ROUTERS.fullmatch(name)]}
        if experts and not config.lora_dropout:
            chosen["target_parameters"] = experts
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        task_type="CAUSAL_LM",
        **chosen,
    )


def linear_layers(base: Any) -> Iterator[tuple[str, Any]]:
    """Name and layer of each linear layer but the head."""
    head = base.get_output_embeddings()
    for name, module in base.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            yield name, module


def expert_weights(base: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and value of each parameter that holds the weights of all experts of a layer: [experts, rows, columns]."""
    for place, module in base.named_modules():
        if place.rpartition(".")[2] == "experts" or type(module).__name__.endswith("Experts"):
            for name, weight in module.named_parameters(recurse=False):
                if weight.ndim == 3:
                    yield f"{place}.{name}", weight


def adapt(base: Any, config: PolicyConfig) -> Any:
    """``base`` with a fresh LoRA, as PEFT gives it; one line if the LoRA leaves out a part of what it should sit on.

    Raises:
        ConfigError: If PEFT cannot put such a LoRA on this architecture.
    """
    whole = weights_to_cover(base)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*_pattern keys did not match.*", category=RuntimeWarning)
            adapted = get_peft_model(base, lora_config(base, config))
    except ValueError as error:
        raise ConfigError(
            f"PEFT cannot put a LoRA on this model: {error}",
            fix="Set policy.lora_dropout=0, which lets it sit on experts, or use another base model.",
        ) from error
    covered = covered_weights(adapted)
    if covered < FULL * whole:
        say(
            f"LoRA sits on {covered / whole:.0%} of the weights of the base model's linear layers and experts; PEFT "
            "cannot put it on the others. Under policy.lora_dropout it leaves out experts"
        )
    return adapted


def covered_weights(adapted: nn.Module) -> int:
    """How many weights of the base a LoRA changes."""
    return sum(
        weight.numel() for layer in adapted.modules() if isinstance(layer, LoraLayer) for weight in _own_weights(layer)
    )


def adapts_experts(adapted: nn.Module) -> bool:
    """Whether a LoRA sits on the experts of a mixture, whose change is no product of its two factors."""
    return any(isinstance(layer, ParamWrapper) for layer in adapted.modules())


def weights_to_cover(base: Any) -> int:
    """How many weights linear layers and experts have, routers and head left out."""
    layers = sum(layer.weight.numel() for name, layer in linear_layers(base) if not ROUTERS.fullmatch(name))
    return layers + sum(weight.numel() for _, weight in expert_weights(base))


def _own_weights(layer: LoraLayer) -> Iterator[Tensor]:
    """The weight of the base that a LoRA changes."""
    name = getattr(layer, "parameter_name", "weight")
    base = layer.get_base_layer()
    if hasattr(base, name):
        yield getattr(base, name)


def _is_mixture(base: nn.Module) -> bool:
    """Whether a model has experts at all, such as a list of linear layers for each."""
    return any(place.rpartition(".")[2] == "experts" for place, _ in base.named_modules())
