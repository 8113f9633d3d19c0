"""Randomness is an argument: a stream is named by a seed and a path of labels, never by position or order.

Adding a client, changing the cohort's order or resuming a run leaves every other stream as it was.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

Label = str | int


def entropy(seed: int, *path: Label) -> int:
    """128 bits that depend on ``seed`` and on every label of ``path``, and on nothing else.

    Labels are hashed with their type, so the client ``"7"`` and the round ``7`` never collide.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def numpy_generator(seed: int, *path: Label) -> np.random.Generator:
    """A NumPy generator for the stream named by ``seed`` and ``path``."""
    import numpy as np  # deferred, like torch below: configurations name streams and draw nothing

    return np.random.Generator(np.random.Philox(entropy(seed, *path)))


def torch_generator(seed: int, *path: Label) -> torch.Generator:
    """A CPU torch generator for the stream named by ``seed`` and ``path``."""
    import torch

    return torch.Generator().manual_seed(entropy(seed, *path) % 2**63)
