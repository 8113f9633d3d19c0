"""From a model's name to a complete folder and to what identifies its content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from fedvpa.core.errors import ModelError
from fedvpa.world import backbone_path

BUNDLED = "bundled"

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")

TOKENIZER_FILES = (
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)

LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A complete model folder.

    Attributes:
        name: As the user gave it.
        folder: Where ``config.json``, weights and tokenizer lie.
        revision: The commit of a hub model; empty for a folder.
    """

    name: str
    folder: Path
    revision: str = ""

    def identity(self) -> str:
        """What names the weights: the hub revision, or a hash of configuration and weights.

        The folder's place is no part of it: a moved or copied model finds its cache again.
        """
        if self.revision:
            return f"{self.name}@{self.revision}"
        return "sha256:" + hash_files([self.folder / "config.json", *weight_files(self.folder)])

    def tokenizer_hash(self) -> str:
        """A hash of the tokenizer's files and chat template."""
        return hash_files(self.folder / name for name in TOKENIZER_FILES if (self.folder / name).is_file())


def hash_files(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of ``paths``."""
    total = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            total.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def locate(model: str) -> ModelSource:
    """Find a model: ``bundled``, an existing folder, or a hub id (downloaded once, then found offline).

    Raises:
        ModelError: If there is no such folder or hub model, or the folder lacks configuration, weights or tokenizer.
    """
    if model == BUNDLED:
        source = ModelSource(model, backbone_path())
    elif Path(model).expanduser().is_dir():
        source = ModelSource(model, Path(model).expanduser())
    elif model.startswith((".", "~", os.sep)) or model.count("/") > 1 or Path(model).exists():
        raise ModelError(
            "There is no model folder here.", fix="Give a folder with config.json, or a hub id.", where=model
        )
    else:
        source = _download(model)
    check_folder(source.folder)
    return source


def check_folder(folder: Path) -> None:
    """Check that a model folder is complete.

    Raises:
        ModelError: Naming what is missing.
    """
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        raise ModelError(
            "This is an adapter without its base model." if adapter else "The model folder has no config.json.",
            fix="Give the folder of the base model." if adapter else "Save the model with save_pretrained.",
            where=str(folder),
        )
    weight_files(folder)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelError(
            "The model folder has no tokenizer (tokenizer.json or a vocabulary file).",
            fix="Save the tokenizer into the same folder.",
            where=str(folder),
        )


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, shards included, in the order of preference of transformers.

    Raises:
        ModelError: If there are none, a shard is missing, or a file is a Git LFS pointer.
    """
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise ModelError(
            f"The model folder has no weights ({WEIGHTS[0]} or {WEIGHTS[2]}).",
            fix="Copy the weights there, or save the model with save_pretrained.",
            where=str(folder),
        )
    files = [found]
    if found.suffix == ".json":
        shards = sorted(set(json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [folder / shard for shard in shards]
    for file in files:
        if not file.is_file():
            raise ModelError(f"The shard {file.name} is missing.", fix="Copy every shard there.", where=str(folder))
        with file.open("rb") as head:
            if head.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ModelError("This is a Git LFS pointer, not weights.", fix="Run 'git lfs pull'.", where=str(file))
    return files


def _download(model: str) -> ModelSource:
    """The snapshot of a hub model, from the local hub cache if the hub cannot be reached."""
    small = ["*.json", "*.txt", "*.model", "*.jinja"]
    try:
        folder = Path(snapshot_download(model, allow_patterns=[*small, "*.safetensors"], ignore_patterns=["*/*"]))
        if not any((folder / name).is_file() for name in WEIGHTS[:2]):
            folder = Path(snapshot_download(model, allow_patterns=[*small, "*.bin"], ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"{model!r} is neither a folder nor a hub model that could be fetched ({type(error).__name__}).",
            fix="Check the name, the connection and, for a gated model, the login; or give a local folder.",
        ) from error
    return ModelSource(model, folder, revision=folder.name)
