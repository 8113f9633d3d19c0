"""``fedvpa doctor``: what is installed, and whether it works."""

from __future__ import annotations

import shutil
from importlib import metadata
from typing import Any

import torch

from fedvpa.api.environment import environment
from fedvpa.core.errors import FedvpaError
from fedvpa.data import Pair, PairTable
from fedvpa.features import FeatureConfig, extract, load_backbone

OPTIONAL = ("flwr", "ray", "openai", "peft", "trl", "accelerate")
FLOWER_VERSIONS = ("1.41",)
"""Those that engines/flower is written against: Flower's message API changes with minor versions."""


def doctor() -> dict[str, Any]:
    """Versions, hardware, cache, optional packages, and a forward pass of the bundled language model.

    ``ok`` is false if something that fedvpa needs does not work; ``problems`` says what.
    """
    problems = []
    config = FeatureConfig()
    cache = config.cache_root()
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    try:
        pair = Pair("how do i plan a picnic ?", "bring a rug .", "no .")
        store = extract(PairTable((pair,)), load_backbone(config), config)
        if not torch.isfinite(torch.as_tensor(store.chosen.astype("float32"))).all():
            problems.append("The bundled language model gives features that are not finite: reinstall fedvpa.")
    except (FedvpaError, OSError, RuntimeError) as error:
        problems.append(f"The bundled language model does not run: {error}")
    flower = _version("flwr")
    if flower is not None and not flower.startswith(FLOWER_VERSIONS):
        problems.append(f"flwr {flower} is installed, and engine.name=flower needs {FLOWER_VERSIONS[0]}.*.")
    if flower is not None and _version("ray") is None:
        problems.append("flwr is installed without its simulation: pip install 'fedvpa[flower]'.")
    return {
        **environment(),
        "feature_cache": str(cache),
        "free_disk_gib": round(shutil.disk_usage(existing).free / 2**30, 1),
        "optional": {name: _version(name) for name in OPTIONAL},
        "problems": problems,
        "ok": not problems,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
