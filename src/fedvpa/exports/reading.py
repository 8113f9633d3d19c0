"""How other programs read texts for an exported policy: its tokenizer, its chat template, and where answers end.

A policy was trained on tokens, and not on texts. So an export is opened again as other programs open it, and refused
if the same texts have other tokens there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from transformers import AutoTokenizer, GenerationConfig

from fedvpa.core.errors import ModelError
from fedvpa.core.files import read_own_object, storing, write_json, write_text
from fedvpa.models.chat_template import ChatTemplate, template_fingerprint
from fedvpa.models.load import open_tokenizer
from fedvpa.models.loading_config import DEFAULT, LoadingConfig
from fedvpa.models.locate import TOKENIZER_FILES, ModelSource
from fedvpa.models.quiet import quiet
from fedvpa.policy.policy import Policy
from fedvpa.policy.sampling import SERVING

TEMPLATE = "chat_template.jinja"
"""Where transformers 4.52 and newer, vLLM and llama.cpp's converter look for the chat template first."""

OTHER_TEMPLATES = ("chat_template.json", TEMPLATE)


@dataclass(frozen=True)
class Reading:
    """How a policy reads texts.

    Attributes:
        source: Its base, whose tokenizer it uses.
        template: The chat template, with its arguments.
        fingerprint: See :func:`~fedvpa.models.chat_template.template_fingerprint`.
    """

    source: ModelSource
    template: ChatTemplate
    fingerprint: str

    @classmethod
    def of(cls, policy: Policy) -> Self:
        """That of a policy."""
        encoder = policy.tokenizer.encoder
        return cls(policy.source, encoder.renderer.template, encoder.fingerprint)

    @classmethod
    def saved(cls, saved: Mapping[str, Any], source: ModelSource) -> Self:
        """That of a policy that is not loaded.

        Args:
            saved: From :func:`~fedvpa.policy.files.read_policy`.
            source: Its base.
        """
        recorded = saved.get("reading", {})  # policies of earlier releases did not record it
        template = ChatTemplate(open_tokenizer(source), recorded.get("arguments") or {})
        found = template_fingerprint(template.tokenizer, template.arguments)
        return cls(source, template, recorded.get("rendering", found))


def write_tokenizer(reading: Reading, folder: Path) -> None:
    """Copy the base's tokenizer, with a chat template that writes what the policy was trained on.

    Args:
        reading: Of the policy.
        folder: Where to.

    Raises:
        ModelError: If the stock ``AutoTokenizer`` would give other tokens: transformers 5 replaces tokenizers that a
            folder declares as generic by the class of the model's family.
        StorageError: If it cannot be written.
    """
    source = reading.source.folder
    with storing(folder):
        for name in TOKENIZER_FILES:
            if name not in OTHER_TEMPLATES and (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        declared = read_own_object(settings)
        write_json(settings, {name: value for name, value in declared.items() if name != "chat_template"})
    write_template(reading.template, folder)
    with tempfile.TemporaryDirectory() as opened:  # the class is chosen by the model's family, too
        for file in (*folder.iterdir(), source / "config.json"):
            if file.is_file():
                shutil.copyfile(file, Path(opened) / file.name)
        stock = open_stock(Path(opened), reading.source.loading)
    if template_fingerprint(stock) != reading.fingerprint:
        raise ModelError(
            "AutoTokenizer of the installed transformers gives other tokens for the same texts than the policy was "
            "trained on, and so would every server that uses it.",
            fix="Put the tokenizer files of the original model (tokenizer_config.json names the class) into the base's "
            "folder and align again, or serve the run itself.",
            where=str(source),
        )


def write_template(template: ChatTemplate, folder: Path) -> None:
    """Write a chat template, its arguments and its day in it; nothing for a model without one."""
    served = template.served()
    if served is not None:
        write_text(folder / TEMPLATE, served)


def open_stock(folder: Path, loading: LoadingConfig = DEFAULT) -> Any:
    """The tokenizer of a folder as other programs open it."""
    with quiet():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=loading.trust_remote_code)


def generation_config(policy: Policy) -> GenerationConfig:
    """Where answers end, and how they are drawn unless a request says otherwise: as ``fedvpa generate`` draws.

    What the base's own file has beside that (penalties, a nucleus) is left out, since no policy is trained or judged
    with it. Neither is a longest answer in it, which vLLM would take for a limit on all requests.
    """
    tokenizer = policy.tokenizer
    return GenerationConfig(
        bos_token_id=tokenizer.base.bos_token_id,
        eos_token_id=list(tokenizer.stops.tokens),
        pad_token_id=tokenizer.pad,
        do_sample=True,
        temperature=SERVING.temperature,
        top_p=SERVING.top_p,
        top_k=0,
    )


def template_of(folder: Path) -> str | None:
    """The chat template of an exported folder; None if it has none."""
    path = folder / TEMPLATE
    return path.read_text(encoding="utf-8") if path.is_file() else None


def is_quantised(folder: Path) -> bool:
    """Whether a model folder says that its weights are quantised."""
    return "quantization_config" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
