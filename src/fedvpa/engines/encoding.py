"""Posteriors and private state as tensors and JSON, for checkpoints and for messages.

Client ids may be any text, so tensors are numbered and the names stand beside them. Floats that matter are kept as
float64 tensors: what is decoded equals what was encoded, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fedvpa.algorithms.base import Gaussian, Private
from fedvpa.core.tree import Tree


def encode_posteriors(values: Mapping[int, Gaussian]) -> Tree:
    """Means and log-variances by number."""
    means = {f"{row}.mean": mean for row, (mean, _) in values.items()}
    return means | {f"{row}.log_var": log_var for row, (_, log_var) in values.items()}


def decode_posterior(tensors: Tree, row: int) -> Gaussian:
    """One posterior of :func:`encode_posteriors`."""
    return tensors[f"{row}.mean"], tensors[f"{row}.log_var"]


def encode_private(private: Mapping[str, Private]) -> tuple[Tree, list[dict[str, Any]]]:
    """Tensors by client number, and for each client its id and the ids of its mixture weights."""
    owns = list(private.values())
    posteriors = {row: own.posterior for row, own in enumerate(owns) if own.posterior is not None}
    weights = {
        f"{row}.logits": torch.tensor(list(own.logits.values()), dtype=torch.float64) for row, own in enumerate(owns)
    }
    names = [
        {"id": name, "components": list(own.logits), "posterior": own.posterior is not None}
        for name, own in private.items()
    ]
    return encode_posteriors(posteriors) | weights, names


def decode_private(tensors: Tree, names: Sequence[Mapping[str, Any]]) -> dict[str, Private]:
    """What :func:`encode_private` encoded, bit for bit."""
    found = {}
    for row, name in enumerate(names):
        logits = dict(zip(name["components"], tensors[f"{row}.logits"].tolist(), strict=True))
        found[name["id"]] = Private(logits, decode_posterior(tensors, row) if name["posterior"] else None)
    return found
