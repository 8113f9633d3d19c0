"""Policies from a base model, and from the folder that :meth:`Policy.save_pretrained` wrote."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from trl.trainer.utils import add_fused_lm_head

from fedvpa.core.errors import ConfigError, ModelError, RunError
from fedvpa.core.files import replacing, write_json
from fedvpa.core.schema import VERSIONS, check_version
from fedvpa.core.seeds import entropy
from fedvpa.core.tensors import write_tensors
from fedvpa.models.architecture import positions_of
from fedvpa.models.device import resolve_device, resolve_dtype
from fedvpa.models.load import load_causal_lm
from fedvpa.models.locate import ModelSource, locate
from fedvpa.policy.adapters import _quiet_peft
from fedvpa.policy.conditioning import Conditioner
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.model import Policy
from fedvpa.policy.rows import PolicyTokenizer
from fedvpa.policy.sampling import SERVING

PREFERENCES = "preferences.json"
"""Beside the policy: group → the z that stands for it."""

TYPICAL_NORM = 1.0
"""Norm of z that a fresh conditioner expects: that of a prototype at the default ``prototype_scale``."""


def new_policy(config: PolicyConfig, model: str, latent: int | None, seed: int, *, device: str = "auto") -> Policy:
    """The base model with a fresh LoRA and conditioner.

    Args:
        config: Its shape.
        model: The base policy, if ``config.model`` names none.
        latent: k, the size of z; None for a policy without z.
        seed: Names the initial weights.
        device: Where to put it.

    Raises:
        ModelError: If the folder is unusable or no causal language model.
    """
    source = locate(config.model or model)
    base, tokenizer = load_base(source, config, device)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy(seed, "policy", "init") % 2**63)
        conditioner = None if latent is None else _new_conditioner(config, base, latent)
        with _quiet_peft():
            adapted = get_peft_model(base, lora)
    if config.gradient_checkpointing:
        # transformers renamed it in 5.x and warns under the old name.
        newer = getattr(base, "activation_checkpointing_enable", None)
        (newer or base.gradient_checkpointing_enable)({"use_reentrant": False})
        adapted.enable_input_require_grads()
    return _assemble(adapted, conditioner, tokenizer, source, config)


def load_base(source: ModelSource, config: PolicyConfig, device: str = "auto") -> tuple[Any, PolicyTokenizer]:
    """A causal language model with TRL's fused LM head, and its tokenizer.

    Raises:
        ModelError: If it cannot be loaded, or its weights are not complete.
    """
    place = resolve_device(device)
    loaded = load_causal_lm(source, resolve_dtype(config.precision, place), place)
    add_fused_lm_head(loaded.model)
    return loaded.model, _limited(loaded.tokenizer, loaded.model, config)


def save_policy(policy: Policy, folder: Path, notes: Mapping[str, Any]) -> None:
    """Write a policy's folder; see :meth:`Policy.save_pretrained`."""
    with tempfile.TemporaryDirectory() as temporary:
        policy.model.save_pretrained(temporary)
        for file in sorted(Path(temporary).iterdir()):
            if file.name != "README.md":
                with replacing(folder / file.name) as target:
                    shutil.copyfile(file, target)
    shape = None
    if policy.conditioner is not None:
        write_tensors(folder / "z_conditioner.safetensors", policy.conditioner.state_dict())
        tokens = policy.conditioner.slots or 1
        shape = {"kind": policy.conditioner.kind, "latent": policy.conditioner.latent, "prefix_tokens": tokens}
    write_json(
        folder / "policy.json",
        {
            "schema_version": VERSIONS["policy"],
            "model": policy.source.name,
            "base": policy.source.identity(),
            "max_prompt_tokens": policy.tokenizer.max_prompt_tokens,
            "conditioner": shape,
            **notes,
        },
    )


def read_policy(folder: Path) -> dict[str, Any]:
    """``policy.json`` of a folder that :meth:`Policy.save_pretrained` wrote.

    Raises:
        RunError: If it is not such a folder, or of another schema version.
    """
    try:
        saved: dict[str, Any] = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise RunError("holds no policy.", fix="Run: fedvpa align RUN", where=str(folder)) from error
    check_version(
        "policy", saved.get("schema_version"), where=str(folder), fix="Align again, or use the fedvpa that wrote it."
    )
    return saved


def load_pretrained(folder: Path, *, model: str | None = None, device: str = "auto") -> Policy:
    """The policy of a run directory or of a policy folder; arguments and errors as :meth:`Policy.from_pretrained`."""
    folder = folder / "policy" if (folder / "policy").is_dir() else folder
    if not (folder / "policy.json").is_file():
        several = sorted(path.parent.name for path in folder.glob("*/policy.json"))
        if several:
            raise RunError(
                f"holds one policy for each of {', '.join(several)}.",
                fix=f"Give the folder of one, such as {folder / several[0]}.",
                where=str(folder),
            )
    settings = PolicyConfig.parse(read_policy(folder).get("settings", {}))
    policy = load_policy(folder, settings.model_copy(update={"model": model or settings.model}), device=device)
    return policy.eval()


def load_policy(folder: Path, config: PolicyConfig, *, device: str = "auto") -> Policy:
    """What :meth:`Policy.save_pretrained` wrote, with the preferences that stand beside it.

    Raises:
        RunError: If it is not such a folder, of another schema version, or the base model has changed.
        ModelError: If the base model cannot be loaded.
    """
    saved = read_policy(folder)
    for name in ("adapter_model.safetensors", *(["z_conditioner.safetensors"] if saved["conditioner"] else [])):
        if not (folder / name).is_file():
            raise RunError(
                f"lacks {name}, without which it is no policy.", fix="Restore it, or align again.", where=str(folder)
            )
    source = locate(config.model or saved["model"])
    if source.identity() != saved["base"]:
        raise ModelError(
            f"The policy was trained on other weights of {saved['model']!r} than these.",
            fix="Give the base model that it was trained on: policy.model=PATH.",
            where=str(source.folder),
        )
    base, tokenizer = load_base(source, config, device)
    with _quiet_peft():
        adapted = PeftModel.from_pretrained(base, folder, is_trainable=True)
    conditioner = None
    if saved["conditioner"] is not None:
        shape = saved["conditioner"]
        values = {"conditioning": shape["kind"], "prefix_tokens": shape["prefix_tokens"]}
        conditioner = _new_conditioner(config.model_copy(update=values), base, shape["latent"])
        conditioner.load_state_dict(load_file(folder / "z_conditioner.safetensors"))
    policy = _assemble(adapted, conditioner, tokenizer, source, config)
    if (folder / PREFERENCES).is_file() and conditioner is not None:
        policy.preferences = read_preferences(folder)
    return policy


def read_preferences(folder: Path) -> dict[str, list[float]]:
    """Group → the z that stands for it, of a policy folder.

    Raises:
        RunError: If the file is missing or broken.
    """
    path = folder / PREFERENCES
    try:
        found: dict[str, list[float]] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RunError(
            f"cannot be read ({error}).", fix="Restore it, or align again with --overwrite.", where=str(path)
        ) from error
    return found


def _assemble(
    adapted: Any, conditioner: Conditioner | None, tokenizer: PolicyTokenizer, source: ModelSource, config: PolicyConfig
) -> Policy:
    if conditioner is not None:
        conditioner.to(adapted.device)
    limits = config.candidates
    sampling = replace(SERVING, max_new_tokens=limits.max_new_tokens, batch=limits.batch)
    return Policy(adapted, conditioner, tokenizer, source, sampling=sampling)


def _new_conditioner(config: PolicyConfig, base: Any, latent: int) -> Conditioner:
    table = base.get_input_embeddings().weight
    return Conditioner(
        config.conditioning, latent, table.shape[1], config.prefix_tokens, float(table.float().std()), TYPICAL_NORM
    )


def _limited(tokenizer: Any, model: Any, config: PolicyConfig) -> PolicyTokenizer:
    """The tokenizer with its limits: prefix, prompt and a response of the longest sample fit into the positions."""
    positions = positions_of(model)
    if positions is None:
        return PolicyTokenizer.of(tokenizer, 2**31)
    room = positions - config.candidates.max_new_tokens - config.prefix_tokens - 2
    if room < 1:
        raise ConfigError(
            f"The policy has {positions} positions, which candidates of {config.candidates.max_new_tokens} tokens "
            "fill alone.",
            fix="Lower policy.candidates.max_new_tokens.",
        )
    return PolicyTokenizer.of(tokenizer, room, positions - config.prefix_tokens)
