"""A small configuration that every test of methods starts from."""

from __future__ import annotations

from typing import Any

from fedvpa.algorithms import MethodConfig

SMALL: dict[str, Any] = {
    "selector": {"latent": 5, "head_scale": 1.0, "encoder": {"pair_widths": [7]}},
    "local": {"steps": 3, "folds": 3},
    "server": {"rounds": 5, "average_tail": 0.4},
    "variational": {"warmup": 0.2},
}


def config(**sections: dict[str, Any]) -> MethodConfig:
    """``SMALL`` with some keys changed."""
    merged = {name: {**SMALL.get(name, {}), **sections.get(name, {})} for name in {*SMALL, *sections}}
    return MethodConfig.parse(merged)
