"""Local model folders, and whether one is complete: what can be said about a model without the hub or torch."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fedvpa.core.errors import ModelError
from fedvpa.world import backbone_path

BUNDLED = "bundled"

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")

GGUF = ".gguf"

LFS_POINTER = b"version https://git-lfs"


def local_place(model: str) -> Path | None:
    """The folder of ``bundled`` or of a local model, or a GGUF file; None for what can only be a hub id.

    A folder without weights in the layout of transformers that holds a GGUF file stands for that file.

    Raises:
        ModelError: If ``model`` is empty, or is written like a path and there is no such folder or GGUF file, or a
            folder holds several GGUF files and nothing else.
    """
    if not model:
        raise ModelError("No language model is named.", fix="Name a folder, a .gguf file or a hub id.")
    if model == BUNDLED:
        return backbone_path()
    place = Path(model).expanduser()
    if place.is_dir():
        return _only_gguf(place) or place
    if is_gguf(place):
        return place
    if is_path(model):
        raise ModelError(
            "There is no model folder here.",
            fix="Give a folder with config.json, a .gguf file, or a hub id.",
            where=model,
        )
    return None


def is_path(model: str) -> bool:
    """Whether a name is that of a place on this machine, and no hub id: as it is written, or because it is there."""
    place = Path(model).expanduser()
    return model.startswith((".", "~", os.sep)) or model.count("/") > 1 or is_gguf(place) or place.exists()


def is_gguf(place: Path) -> bool:
    """Whether a path is written like a GGUF file's."""
    return place.suffix.lower() == GGUF


def _only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder that has no other weights; None if it has those, or no GGUF file."""
    if any((folder / name).is_file() for name in WEIGHTS):
        return None
    found = sorted(file for file in folder.iterdir() if is_gguf(file))
    if len(found) > 1:
        raise ModelError(
            f"The folder holds {len(found)} GGUF files and no other weights.",
            fix=f"Give one of them, such as {found[0]}.",
            where=str(folder),
        )
    return found[0] if found else None


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
        check_no_pointer(file)
    return files


def check_no_pointer(file: Path) -> None:
    """Raise ModelError for what Git LFS leaves in place of a large file that it did not fetch."""
    with file.open("rb") as head:
        if head.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ModelError("This is a Git LFS pointer, not weights.", fix="Run 'git lfs pull'.", where=str(file))
