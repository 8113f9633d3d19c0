"""Files of tensors, apart from other files, so that only what holds tensors imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from fedvpa.core.files import replacing


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write ``tensors`` as safetensors to ``path`` atomically. Copies: rows of one tensor may not share its memory."""
    with replacing(path) as temporary:
        save_file(
            {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, temporary, dict(metadata or {})
        )
