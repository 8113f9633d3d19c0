"""Several continuations of one prefix in one row: what each token may see."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def tree_mask(branch: Tensor, dtype: torch.dtype) -> Float[Tensor, "rows 1 length length"]:
    """The additive mask under which a token sees the earlier tokens of the prefix and of its own branch.

    Padding sees padding, so that no row of the softmax is empty. Hidden places hold the lowest finite number: minus
    infinity would turn into NaN in attention implementations that add masks.

    Args:
        branch: Integers [rows, length]: 0 for the prefix, another number for each branch, and one more for padding.
        dtype: Of the attention scores.
    """
    length = branch.shape[1]
    alike = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == 0)
    visible = alike & torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    mask = torch.zeros(visible.shape, dtype=dtype, device=branch.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
