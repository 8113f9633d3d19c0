from __future__ import annotations

import pytest
import torch

from fedvpa.models.tree import tree_mask


@pytest.mark.unit
def test_tree_mask_by_hand():
    mask = tree_mask(torch.tensor([[0, 0, 1, 2, 2, 3]]), torch.float32)
    visible = (mask[0, 0] == 0).int().tolist()
    assert visible == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    assert torch.isfinite(mask).all()
