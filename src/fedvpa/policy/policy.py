"""The policy that users see: loaded from a run, asked in words under a preference, saved as a PEFT folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from fedvpa.core.errors import ConfigError, ModelError, RunError
from fedvpa.core.files import replacing, storing, write_json
from fedvpa.core.progress import say
from fedvpa.core.schema import VERSIONS
from fedvpa.core.seeds import entropy
from fedvpa.core.tensors import write_tensors
from fedvpa.data.messages import Prompt, as_texts, with_system
from fedvpa.models.device import resolve_device
from fedvpa.models.loading_config import DEFAULT
from fedvpa.models.locate import ModelSource, locate
from fedvpa.models.places import remember
from fedvpa.policy.base import load_base, new_conditioner, quiet_peft
from fedvpa.policy.conditioning import Conditioner
from fedvpa.policy.config import PolicyConfig
from fedvpa.policy.files import PREFERENCES, read_policy, read_preferences, saved_settings
from fedvpa.policy.lora import adapt
from fedvpa.policy.model import PolicyModel
from fedvpa.policy.origin import locate_base, name_base, origin_of
from fedvpa.policy.preference import Preference, Prototypes, known, latent_of
from fedvpa.policy.rows import PolicyTokenizer
from fedvpa.policy.sampling import SERVING, Sampling, check_sampling
from fedvpa.policy.sharding import shard, sharded


class Policy(PolicyModel):
    """A policy as its users have it: loaded, asked, saved. Built by :func:`new_policy` or :meth:`from_pretrained`.

    Args:
        model: See :class:`~fedvpa.policy.model.PolicyModel`.
        conditioner: None for one policy without z.
        tokenizer: Its tokenizer.
        source: Where the base came from.
        preferences: Group → the z that stands for it; empty for a policy without z, or one in training.
        sampling: How :meth:`generate` draws unless told otherwise.
        prototypes: The typical z of the selector that it was aligned by; empty where they mean nothing.
        tokens_per_batch: See :class:`~fedvpa.policy.model.PolicyModel`.
    """

    def __init__(
        self,
        model: Any,
        conditioner: Conditioner | None,
        tokenizer: PolicyTokenizer,
        source: ModelSource,
        preferences: Mapping[str, Sequence[float]] | None = None,
        sampling: Sampling = SERVING,
        prototypes: Prototypes = (),
        tokens_per_batch: int | None = None,
    ) -> None:
        super().__init__(model, conditioner, tokenizer, source, tokens_per_batch)
        self.preferences: Mapping[str, Sequence[float]] = dict(preferences or {})
        self.sampling = sampling
        self.prototypes = prototypes
        self.again: Callable[[], Policy] | None = None
        """Makes it in another process as it was when it was made or loaded; None where nothing says how."""

    def __repr__(self) -> str:
        z = "no z" if self.conditioner is None else f"z of {self.conditioner.latent} numbers"
        return f"Policy(base={self.source.name!r}, {z}, preferences={list(self.preferences)})"

    @classmethod
    def from_pretrained(cls, folder: str | PathLike[str], *, model: str | None = None, device: str = "auto") -> Policy:
        """Load an aligned policy.

        Args:
            folder: A run directory, or its ``policy`` folder.
            model: Where the base model is now, if not where it was: a folder, a ``.gguf`` file or a hub id.
            device: ``auto`` (a GPU if there is one), or any torch device.

        Raises:
            RunError: If there is no policy, or one for each group; then their folders are named.
            ModelError: If the base model cannot be loaded, or is not the one that the policy was trained on.
        """
        place = Path(folder).expanduser()
        place = place / "policy" if (place / "policy").is_dir() else place
        if not (place / "policy.json").is_file():
            several = sorted(path.parent.name for path in place.glob("*/policy.json"))
            if several:
                raise RunError(
                    f"holds one policy for each of {', '.join(several)}.",
                    fix=f"Give the folder of one, such as {place / several[0]}.",
                    where=str(place),
                )
        settings = saved_settings(read_policy(place))
        policy = load_policy(place, settings.model_copy(update={"model": model or settings.model}), device=device)
        return policy.eval()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        preference: Preference | None = None,
        system: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        max_new_tokens: int | None = None,
        seed: int = 0,
    ) -> list[str]:
        """One answer to each prompt.

        Args:
            prompts: A prompt or several: strings, or lists of messages with ``role`` and ``content``. A string is one
                message of the user, if the policy was trained on conversations. A conversation that ends in an
                assistant turn is continued there.
            preference: Whose: the name of a group; the number of a prototype, or one between two, such as 0.3; or a z
                of k numbers, such as :func:`fedvpa.personalize` gives. None for a policy without z.
            system: The text of a system turn in front of each prompt.
            temperature: 0 for greedy decoding; by default 0.7.
            top_p: Nucleus; by default 1.
            max_new_tokens: Longest answer; by default that of the candidates in training.
            seed: Names the draws.

        Returns:
            The answers, without special tokens.

        Raises:
            ConfigError: If the preference is unknown, missing or unasked for, or prompt and answer do not fit.
            DataError: If the chat template of the base model refuses a conversation.
        """
        texts = as_texts(prompts)
        if system is not None:
            texts = [with_system(text, system) for text in texts]
        if not self.tokenizer.conversational and not all(isinstance(text, str) for text in texts):
            say("this policy was trained on plain texts, and is asked with conversations that its chat template writes")
        sampling = replace(
            self.sampling,
            temperature=self.sampling.temperature if temperature is None else temperature,
            top_p=self.sampling.top_p if top_p is None else top_p,
            max_new_tokens=self.sampling.max_new_tokens if max_new_tokens is None else max_new_tokens,
        )
        z = self.latent(preference)
        check_sampling(sampling.temperature, sampling.top_p, sampling.max_new_tokens)
        asked = self.tokenizer.prompts(texts)
        self.check_room(max(map(len, asked), default=0), sampling.max_new_tokens)
        found = self.sample(asked, None if z is None else z.expand(len(asked), -1), sampling, seed, "generate")
        return [self.tokenizer.text(ids) for ids in found]

    def latent(self, preference: Preference | None) -> Tensor | None:
        """The z of a preference, shape [k]; None for a policy without z.

        Args:
            preference: As :meth:`generate` takes it.

        Raises:
            ConfigError: If the preference is unknown, missing or unasked for.
        """
        if self.conditioner is None and preference is not None:
            raise ConfigError(
                f"This policy is the same for everybody and cannot follow {preference!r}.",
                fix="Leave the preference out, or align a run of fedvpa_gp.",
            )
        if self.conditioner is None:
            return None
        if preference is None:
            raise ConfigError(
                "This policy follows a preference, and none is given.",
                fix=f"It knows {known(self.preferences, self.prototypes)}; or give a z, as fedvpa.personalize does.",
            )
        return latent_of(preference, self.preferences, self.prototypes)

    def check_room(self, prompt: int, answer: int) -> None:
        """Refuse a prompt and an answer of so many tokens that do not fit into the policy's positions.

        Raises:
            ConfigError: If they do not.
        """
        whole = self.tokenizer.max_tokens
        room = None if whole is None else whole - prompt
        if room is not None and answer > room:
            raise ConfigError(
                f"max_new_tokens = {answer} and a prompt of {prompt} tokens do not fit into the policy's positions.",
                fix=f"Give at most {room}." if room > 0 else "Give a shorter prompt.",
            )

    def save_adapter(self, folder: Path) -> None:
        """Write the LoRA alone as a PEFT folder, each file atomically; its base has the name that others know."""
        with tempfile.TemporaryDirectory() as temporary:
            with storing(Path(temporary)):
                # Without embeddings, of which none is trained: PEFT would ask the hub whether it has the base.
                self.model.save_pretrained(temporary, save_embedding_layers=False)
                name_base(Path(temporary) / "adapter_config.json", self.source)
            for file in sorted(Path(temporary).iterdir()):
                if file.name != "README.md":
                    with replacing(folder / file.name) as target:
                        shutil.copyfile(file, target)

    def save_pretrained(self, folder: str | PathLike[str], notes: Mapping[str, Any] | None = None) -> None:
        """Write a standard PEFT adapter folder, ``z_conditioner.safetensors`` and ``policy.json`` beside it.

        Each file is replaced atomically.

        Args:
            folder: Where to.
            notes: Further entries of ``policy.json``.
        """
        folder = Path(folder).expanduser()
        self.save_adapter(folder)
        remember(self.source)
        shape: dict[str, Any] | None = None
        if self.conditioner is not None:
            write_tensors(folder / "z_conditioner.safetensors", self.conditioner.state_dict())
            own = self.conditioner
            shape = {"kind": own.kind, "placement": own.placement}
            shape |= {"latent": own.latent, "prefix_tokens": own.tokens or 1}
        write_json(
            folder / "policy.json",
            {
                "schema_version": VERSIONS["policy"],
                **origin_of(self.source),
                "max_prompt_tokens": self.tokenizer.max_prompt_tokens,
                "reading": self.tokenizer.identity(),
                "conditioner": shape,
                **({"prototypes": [list(z) for z in self.prototypes]} if self.prototypes else {}),
                **(notes or {}),
            },
        )


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
    source = locate(config.model or model, config.loading or DEFAULT)
    base, tokenizer = load_base(source, config, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy(seed, "policy", "init") % 2**63)
        with quiet_peft():
            adapted = adapt(base, config)
        conditioner = None if latent is None else new_conditioner(config, adapted, latent)
    if config.gradient_checkpointing:
        # transformers renamed it in 5.x and warns under the old name.
        newer = getattr(base, "activation_checkpointing_enable", None)
        (newer or base.gradient_checkpointing_enable)({"use_reentrant": False})
        adapted.enable_input_require_grads()
    if sharded():
        shard(adapted, resolve_device(device))
    policy = _assemble(adapted, conditioner, tokenizer, source, config)
    policy.again = partial(new_policy, config, model, latent, seed, device=device)
    return policy


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
    source = locate_base(config, saved)
    if not source.known_as(saved["base"]):
        raise ModelError(
            f"The policy was trained on other weights of {saved['model']!r} than these.",
            fix="Give the base model that it was trained on: policy.model=PATH.",
            where=str(source.folder),
        )
    reading = saved.get("reading", {})  # policies of earlier releases did not record it
    kept = {"template": reading.get("template", config.template), "template_arguments": reading.get("arguments")}
    shape = saved["conditioner"]
    placement = (shape or {}).get("placement", "inserted")  # as it was when nothing else could be
    slots = shape["prefix_tokens"] if shape and shape["kind"] == "soft_prefix" and placement == "inserted" else 0
    base, tokenizer = load_base(source, config.model_copy(update=kept), device, slots)
    if reading and reading["rendering"] != tokenizer.encoder.fingerprint:
        raise ModelError(
            "The policy was trained with other tokens of the same texts: the tokenizer or the chat template of its "
            "base model has changed, or the library that runs it.",
            fix="Restore the tokenizer's files, or align again.",
            where=str(source.folder),
        )
    with quiet_peft():
        adapted = PeftModel.from_pretrained(base, folder, is_trainable=True)
    conditioner = None
    if shape is not None:
        values = {"conditioning": shape["kind"], "prefix_tokens": shape["prefix_tokens"]}
        conditioner = new_conditioner(config.model_copy(update=values), adapted, shape["latent"], placement)
        conditioner.load_state_dict(load_file(folder / "z_conditioner.safetensors"))
    policy = _assemble(adapted, conditioner, tokenizer, source, config)
    if (folder / PREFERENCES).is_file() and conditioner is not None:
        policy.preferences = read_preferences(folder)
    policy.prototypes = saved.get("prototypes", ())
    policy.again = partial(load_policy, folder.resolve(), config, device=device)
    return policy


def _assemble(
    adapted: Any, conditioner: Conditioner | None, tokenizer: PolicyTokenizer, source: ModelSource, config: PolicyConfig
) -> Policy:
    if conditioner is not None:
        conditioner.to(adapted.device)
    limits = config.candidates
    sampling = replace(SERVING, max_new_tokens=limits.max_new_tokens, batch=limits.batch)
    return Policy(adapted, conditioner, tokenizer, source, sampling=sampling, tokens_per_batch=config.tokens_per_batch)
