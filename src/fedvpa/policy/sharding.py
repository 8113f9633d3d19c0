"""A base model that is shared out to several processes, because no single device holds it: FSDP2.

``accelerate launch --use_fsdp --fsdp_version 2`` asks for it, and its settings are those of accelerate's plugin. What
is sharded are the frozen layers of the base: each is gathered when it computes, and dropped again. LoRA, conditioner,
embeddings and head are whole in every process, so that gradients, optimiser and checkpoints are those of an ordinary
run.

A forward pass gathers each layer from all processes, so all of them have to take as many. Where they share out work of
unequal size, whoever has none left takes empty ones until all have none (:class:`_Lockstep`).
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from fedvpa.core.errors import ConfigError
from fedvpa.core.processes import Team, current, meet_by
from fedvpa.models.loading_config import LoadingConfig

ASKED = "ACCELERATE_USE_FSDP"
"""What ``accelerate launch --use_fsdp`` sets."""


def sharded() -> bool:
    """Whether the processes that are together share out the base model of a policy."""
    return current().count > 1 and os.environ.get(ASKED, "false").lower() in ("true", "1")


def check_shardable(loading: LoadingConfig) -> None:
    """Refuse what cannot be sharded, before anything is loaded.

    Raises:
        ConfigError: Of FSDP's first version, and of quantised weights.
    """
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ConfigError(
            f"The base model is to be sharded by version {version} of FSDP, which keeps no frozen weights beside "
            "trained ones.",
            fix="Give accelerate launch --fsdp_version 2.",
        )
    if loading.quantization is not None:
        raise ConfigError(
            f"Weights of {loading.quantization} cannot be sharded.",
            fix="Leave the quantisation or --use_fsdp out.",
            where="configuration key 'loading.quantization'",
        )


def shard(adapted: Any, device: torch.device) -> None:
    """Share out the frozen layers of a base model, which lies in main memory, and put the rest on the device.

    Args:
        adapted: A PEFT model, in place.
        device: This process's.

    Raises:
        ConfigError: If the model does not say which of its modules are layers.
    """
    from accelerate import FullyShardedDataParallelPlugin  # deferred: it reads the environment
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    plugin, team = FullyShardedDataParallelPlugin(), current()
    body = adapted.get_base_model().base_model
    mesh = init_device_mesh(device.type, (team.count,))
    layers = _layers(body, plugin.transformer_cls_names_to_wrap)
    frozen = {weight for layer in layers for weight in layer.parameters() if not weight.requires_grad}
    whole = {weight for weight in adapted.parameters() if weight not in frozen}
    options = {"mesh": mesh, "offload_policy": plugin.cpu_offload, "ignored_params": whole}
    for weight in whole:
        weight.data = weight.data.to(device)
    for layer in layers:
        fully_shard(layer, reshard_after_forward=plugin.reshard_after_forward, **options)
    fully_shard(body, **options)
    for module in adapted.modules():
        for name, value in module.named_buffers(recurse=False):
            setattr(module, name, value.to(device))
    meet_by(_Lockstep(body, team, device).settle)


def _layers(body: Any, names: list[str] | None) -> list[nn.Module]:
    """The layers of a language model, by the names of their classes: the plugin's, or the model's own."""
    known = set(names or getattr(body, "_no_split_modules", None) or ())
    found = [module for module in body.modules() if type(module).__name__ in known]
    if not found:
        raise ConfigError(
            f"{type(body).__name__} has no module of the classes {', '.join(sorted(known)) or '(none are named)'}, so "
            "it cannot be sharded layer by layer.",
            fix="Name its layer class: accelerate launch --fsdp_transformer_layer_cls_to_wrap NAME "
            "--fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP.",
        )
    return found


class _Lockstep:
    """As many forward passes in every process: who has no work left takes empty ones until nobody has.

    Before each forward pass, all processes say whether they have work.

    Args:
        body: What computes.
        team: The processes.
        device: This one's.
    """

    def __init__(self, body: Any, team: Team, device: torch.device) -> None:
        self._body, self._team, self._device, self._empty = body, team, device, False
        body.register_forward_pre_hook(self._before, prepend=True)

    def _before(self, module: nn.Module, arguments: Any) -> None:
        if not self._empty:
            self._team.exchange(True)

    @torch.no_grad()
    def settle(self) -> None:
        """This process has no work left; returns when no process has."""
        training = self._body.training
        self._body.eval()
        while any(self._team.exchange(False)):
            self._empty = True
            try:
                self._body(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self._device), use_cache=False)
            finally:
                self._empty = False
        self._body.train(training)
