"""GGUF files, in which llama.cpp and others keep a language model: what can be said of one without reading it whole.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What reads it further is the package
``gguf`` (the extra ``fedvpa[gguf]``).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedvpa.core.errors import ModelError
from fedvpa.models.folder import check_no_pointer

MAGIC = b"GGUF"
"""The first four bytes of every such file."""

EXACT = ("F32", "F16")
"""Kinds of tensors whose numbers need float32: bfloat16 has fewer digits than they."""

PACKAGE = "pip install 'fedvpa[gguf]'"


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What a GGUF file says about itself.

    Attributes:
        architecture: Such as ``llama``; llama.cpp's name, which is not always that of transformers.
        kinds: The kinds of its tensors, such as ``Q4_1`` and ``F32``.
    """

    architecture: str
    kinds: frozenset[str]

    @property
    def exact(self) -> bool:
        """Whether its weights are no rounded ones, so that a copy needs float32 to keep them."""
        return self.kinds <= set(EXACT)


def check_gguf(file: Path) -> None:
    """Check the first bytes of a GGUF file.

    Raises:
        ModelError: If it is not there, empty, of another kind or a Git LFS pointer.
    """
    try:
        with file.open("rb") as head:
            first = head.read(len(MAGIC))
    except OSError as error:
        raise ModelError(
            f"The GGUF file cannot be read: {error.strerror or error}.",
            fix="Give a .gguf file, a folder with config.json, or a hub id.",
            where=str(file),
        ) from error
    if not first:
        raise ModelError("The GGUF file is empty.", fix="Copy or download it again.", where=str(file))
    check_no_pointer(file)
    if first != MAGIC:
        raise ModelError(
            f"This is no GGUF file: it begins with {first!r} and not with {MAGIC!r}.",
            fix="Copy or download it again.",
            where=str(file),
        )


def read_header(file: Path) -> GGUFHeader:
    """Read everything of a GGUF file but the numbers in its tensors.

    Raises:
        ModelError: If it is cut off or damaged, one part of several, or no language model, or the package that reads it
            is missing.
    """
    check_gguf(file)
    if importlib.util.find_spec("gguf") is None:
        raise ModelError("A GGUF file is read by the package gguf, which is missing.", fix=PACKAGE, where=str(file))
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        kinds = frozenset(tensor.tensor_type.name for tensor in reader.tensors)
        architecture = str(_value(reader, "general.architecture") or "")
        kind, parts = _value(reader, "general.type"), _value(reader, "split.count")
    except Exception as error:  # gguf indexes and reshapes what it finds, so a damaged file raises anything
        raise ModelError(
            f"The GGUF file is cut off or damaged: {first_line(error)}",
            fix="Copy or download it again, and compare its size and hash with where it came from.",
            where=str(file),
        ) from error
    if not architecture or not kinds:
        lacking = "does not name its architecture" if kinds else "holds no tensors, so it is a vocabulary alone"
        raise ModelError(f"The GGUF file {lacking}.", fix="Give the file of a whole language model.", where=str(file))
    if kind not in (None, "model"):
        raise ModelError(
            f"The GGUF file holds a part of a model (general.type is {kind!r}) and no language model.",
            fix="Give the file of the language model itself.",
            where=str(file),
        )
    if parts is not None and int(parts) > 1:
        raise ModelError(
            f"The GGUF file is one of {parts} parts of a model.",
            fix="Join them with llama.cpp's llama-gguf-split --merge, and give the result.",
            where=str(file),
        )
    return GGUFHeader(architecture, kinds)


def _value(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def first_line(error: Exception) -> str:
    """What an error says first, as one sentence."""
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__).rstrip(".") + "."
