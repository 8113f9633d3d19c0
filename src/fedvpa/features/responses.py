"""Features of single responses, such as samples of a policy, which come in no pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.data.schema import Pair, PairTable, Text
from fedvpa.features.backbone import Backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import extract


def features_of(
    texts: Sequence[Text], responses: Sequence[str], backbone: Backbone, config: FeatureConfig
) -> Float[Tensor, "n d"]:
    """Raw features of one response per prompt. A response without text gets the features of a single space."""
    shown = [response if response.strip() else " " for response in responses]
    # Features come in pairs, whose prompt is read once: neighbours of one prompt share a row, others stand alone.
    pairs, places, row = [], np.zeros((len(texts), 2), dtype=np.int64), 0
    while row < len(texts):
        both = row + 1 < len(texts) and texts[row] == texts[row + 1]
        pairs.append(Pair(texts[row], shown[row], shown[row + both]))
        places[row] = len(pairs) - 1, 0
        if both:
            places[row + 1] = len(pairs) - 1, 1
        row += 1 + both
    store = extract(PairTable(tuple(pairs)), backbone, config)
    sides = np.stack([np.asarray(store.chosen), np.asarray(store.rejected)], axis=1).astype(np.float32)
    return torch.from_numpy(sides[places[:, 0], places[:, 1]])
