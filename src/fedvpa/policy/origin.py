"""Where the base of a policy came from: as its folder tells others, and as a machine finds it again.

A hub model is named by its id and commit, the bundled one by its name, and a folder or GGUF file by its own name and
content, never by a path of the machine that trained the policy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedvpa.core.errors import ModelError
from fedvpa.models.loading_config import LoadingConfig
from fedvpa.models.locate import ModelSource, locate_for
from fedvpa.models.places import recall
from fedvpa.policy.config import PolicyConfig

LOCAL = {"folder": "model folder", "gguf": "GGUF file"}
"""Origins of which only a machine itself knows where they are."""


def origin_of(source: ModelSource) -> dict[str, Any]:
    """What ``policy.json`` says of the base."""
    return {
        "model": source.label,
        "origin": source.origin,
        "revision": source.revision or None,
        "quantization": source.loading.quantization,
        "base": source.content(),
    }


def base_in_words(source: ModelSource) -> str:
    """The same in a sentence."""
    if source.origin == "bundled":
        return "The base is the language model of fedvpa's bundled world."
    if source.origin == "hub":
        return f"The base is `{source.name}` of the Hugging Face hub, at the revision `{source.revision}`."
    return f"The base was the {LOCAL[source.origin]} `{source.label}`, with the content `{source.content()}`."


def describe(source: ModelSource) -> str:
    """The same for a model card, with what another machine has to be told."""
    told = (
        " Another machine has to be told where its copy is: `policy.model=PATH`, in Python "
        "`Policy.from_pretrained(FOLDER, model=PATH)`. A model of another content is refused."
    )
    return base_in_words(source) + (told if source.origin in LOCAL else "")


def name_base(adapter_config: Path, source: ModelSource) -> None:
    """Put the public name of the base into PEFT's ``adapter_config.json`` in place of the path it was loaded from."""
    values = json.loads(adapter_config.read_text(encoding="utf-8"))
    values |= {"base_model_name_or_path": source.label, "revision": source.revision or None}
    adapter_config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def placed(config: PolicyConfig, saved: Mapping[str, Any]) -> PolicyConfig:
    """Stage 2 of a saved policy, with the place of a base of its own on this machine.

    Args:
        config: Its settings; ``model`` may name the base as ``policy.json`` does.
        saved: From :func:`~fedvpa.policy.files.read_policy`.

    Raises:
        ModelError: If this machine does not know where it is.
    """
    local = saved.get("origin") in LOCAL
    if config.model is None or config.model != saved["model"] or not local or Path(config.model).exists():
        return config
    return config.model_copy(update={"model": str(_place(saved))})


def locate_base(config: PolicyConfig, saved: Mapping[str, Any]) -> ModelSource:
    """The base of a saved policy.

    Args:
        config: Its settings, which may say where the base is now; without ``loading``, it is loaded as in training.
        saved: From :func:`~fedvpa.policy.files.read_policy`.

    Raises:
        ModelError: If it is not found, or this machine does not know where it is.
    """
    given = placed(config, saved).model
    if given is None:
        given = str(_place(saved)) if saved.get("origin") in LOCAL else str(saved["model"])
    loading = config.loading or LoadingConfig(quantization=saved.get("quantization"))
    if loading.revision is None and given == saved["model"]:
        loading = loading.model_copy(update={"revision": saved.get("revision")})
    return locate_for("policy.model", given, loading)


def _place(saved: Mapping[str, Any]) -> Path:
    place = recall(saved["base"])
    if place is None or not place.exists():
        raise ModelError(
            f"The base of this policy was the {LOCAL[saved['origin']]} {saved['model']!r} (content {saved['base']}), "
            "and where that is on this machine is not known.",
            fix="Say it: policy.model=PATH, in Python Policy.from_pretrained(FOLDER, model=PATH).",
        )
    return place
