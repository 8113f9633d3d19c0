"""A policy as a plain model of transformers: the LoRA merged into the weights, z in them or left to the caller.

What becomes of z depends on how it enters. A gated LoRA under one z is an ordinary LoRA, and an additive z is added to
each row of the embeddings, so both are a model of their own for each z. A soft prefix changes embeddings of the prompt
alone, so that one model serves every z, and callers give embeddings.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from fedvpa.core.errors import ModelError
from fedvpa.core.files import storing, write_json
from fedvpa.core.tensors import write_tensors
from fedvpa.exports.reading import Reading, generation_config, is_quantised, write_tokenizer
from fedvpa.models.quiet import quiet
from fedvpa.policy.policy import Policy

CONDITIONER = "z_conditioner.safetensors"
PROFILES = "profiles.json"
"""Beside a merged model that takes embeddings: name → the z that stands for it."""


def check_mergeable(quantization: str | None, folder: Path) -> None:
    """Raise ModelError for a base whose weights are quantised: a LoRA cannot be merged into them.

    Args:
        quantization: How it would be quantised when it is loaded.
        folder: The base.
    """
    how = quantization or ("a checkpoint of quantised weights" if is_quantised(folder) else None)
    if how is not None:
        unquantised = "policy.loading.quantization=null merges it into the unquantised weights, which is another policy"
        raise ModelError(
            f"The policy's base is quantised ({how}), and a LoRA cannot be merged into quantised weights.",
            fix="fedvpa export adapters leaves the base as it is" + (f"; {unquantised}." if quantization else "."),
            where=str(folder),
        )


def merged_model(policy: Policy, z: Tensor | None) -> Any:
    """The policy at one z as a causal language model of transformers.

    Args:
        policy: Uses it up: its own layers are merged.
        z: The latent, shape [k]; None for a policy without z, or one with a soft prefix.
    """
    conditioner = policy.conditioner
    if conditioner is not None and conditioner.kind == "gated_lora" and z is not None:
        conditioner.fold(policy.model, z)
    model = policy.model.merge_and_unload()
    if conditioner is not None and conditioner.kind == "additive" and z is not None:
        with torch.no_grad():
            add_to_embeddings(model, conditioner.map(z.to(conditioner.map.weight)))
    return model


@torch.no_grad()
def add_to_embeddings(model: Any, shift: Tensor) -> None:
    """Add a vector to what the embedding layer gives for every token.

    A head that shares the embeddings' weights keeps sharing them where that changes no probability: the vector adds
    the same number to the logit of every token, which the softmax takes out. It does not where logits are capped
    (Gemma 2), so the head becomes a layer of its own there.

    Args:
        model: A causal language model.
        shift: The vector, shape [hidden].

    Raises:
        ModelError: As :func:`embedding_scale`.
    """
    if model.config.get_text_config().tie_word_embeddings and _caps_logits(model):
        untie(model)
    weight = model.get_input_embeddings().weight
    weight.add_((shift / embedding_scale(model)).to(weight))


@torch.no_grad()
def embedding_scale(model: Any) -> float:
    """The factor between a row of the embedding layer and what the layer gives for it (√hidden in Gemma).

    Raises:
        ModelError: If the layer does more than to look up rows and scale them.
    """
    layer = model.get_input_embeddings()
    ids = torch.arange(min(16, len(layer.weight)), device=layer.weight.device)
    rows, shown = layer.weight[ids].float(), layer(ids).float()
    scale = float((shown * rows).sum() / (rows * rows).sum())
    if not torch.allclose(shown, scale * rows, rtol=1e-3, atol=1e-5):
        raise ModelError(
            "The embedding layer of this model does more than to scale rows, so that no row holds what z adds to it.",
            fix="Serve the run itself, or train with policy.conditioning=gated_lora.",
        )
    return scale


def untie(model: Any) -> None:
    """Give the head its own copy of the embeddings, if it shares them."""
    head, layer = model.get_output_embeddings(), model.get_input_embeddings()
    for settings in {id(one): one for one in (model.config, model.config.get_text_config())}.values():
        settings.tie_word_embeddings = False
    if head.weight is layer.weight:
        head.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)


def write_merged(policy: Policy, z: Tensor | None, folder: Path, profiles: Mapping[str, Sequence[float]]) -> None:
    """Write a Hugging Face folder: model, tokenizer, chat template, generation settings.

    Weights have the precision in which the base is stored.

    Args:
        policy: Uses it up.
        z: As of :func:`merged_model`.
        folder: Where to; exists and is empty.
        profiles: Of a soft prefix: name → z, which is written beside the model with the map from z.

    Raises:
        ModelError: If the stock tokenizer would give other tokens, or the model cannot be changed so.
        StorageError: If it cannot be written.
    """
    conditioner = policy.conditioner
    write_tokenizer(Reading.of(policy), folder)
    write_model(policy, merged_model(policy, z), folder)
    if conditioner is not None and conditioner.kind == "soft_prefix":
        write_tensors(folder / CONDITIONER, conditioner.state_dict())
        write_json(folder / PROFILES, {name: list(own) for name, own in profiles.items()})


def write_model(policy: Policy, model: Any, folder: Path, suppressed: Sequence[int] | None = None) -> None:
    """Write weights, configuration and generation settings, and the code of an architecture that brings its own.

    Args:
        policy: Whose.
        model: A causal language model.
        folder: Where to.
        suppressed: Tokens that generation never takes, where a server reads that.
    """
    model.generation_config = generation_config(policy)
    model.generation_config.suppress_tokens = None if suppressed is None else list(suppressed)
    with storing(folder), quiet():
        model.to(stored_precision(policy)).save_pretrained(folder)
        if policy.source.loading.trust_remote_code:
            for code in policy.source.folder.glob("*.py"):
                shutil.copyfile(code, folder / code.name)


def stored_precision(policy: Policy) -> torch.dtype:
    """The precision in which the base is stored; float32 where it does not say."""
    trust = policy.source.loading.trust_remote_code
    found = AutoConfig.from_pretrained(policy.source.folder, trust_remote_code=trust).get_text_config().dtype
    return found if isinstance(found, torch.dtype) else torch.float32


def _caps_logits(model: Any) -> bool:
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None) is not None
