"""The bundled preference world: a grammar, users with known utilities, an exact judge and a tiny language model."""

from __future__ import annotations

from pathlib import Path


def backbone_path() -> Path:
    """The folder of the bundled language model, in the standard Hugging Face layout."""
    return Path(__file__).parent / "backbone"
