"""Whether two computations of the same numbers by a language model agree: what tells if a faster way is open to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

AGREEMENT = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Relative difference up to which two computations count as equal: rounding stays at least three times below on every
architecture tried, a wrong mask or position is far above."""

REJECTIONS = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)
"""What models raise that cannot take a mask, positions or a cache of ours."""


def probe_tokens(model: Any, count: int) -> Int[np.ndarray, " count"]:
    """Arbitrary but fixed tokens, all different where the vocabulary allows.

    Args:
        model: Of transformers.
        count: How many.
    """
    return ((np.arange(count) * 97 + 11) % int(model.get_input_embeddings().num_embeddings)).astype(np.int32)


def relative_difference(one: Tensor, other: Tensor) -> float:
    """‖one − other‖ / ‖other‖, computed in float32; NaN where a number is NaN, which is below no limit."""
    return float((one.float() - other.float()).norm() / other.float().norm())
