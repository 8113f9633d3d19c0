"""Tiny models, and a folder of one that a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tiny_models import model_folder, tokenizer_of

__all__ = ["folder", "model_folder", "tokenizer_of"]


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    """A copy of a small Qwen2 model without a head."""
    return Path(shutil.copytree(model_folder("qwen2"), tmp_path / "model"))
