"""In which precision a language model computes features, where ``features.dtype`` leaves that open.

``auto`` follows the kind of device and what is kept already, and never measures: the same configuration gives the same
features on every machine without a GPU, on a busy one too. ``calibrated`` measures once, if there is enough to compute,
and keeps what it found; a run that is trained then names float32 or bfloat16 in its configuration, so everything that
follows, on whatever machine, reads as it did. Measuring is no part of ``auto`` since its answer depends on the
processor, and since on a CPU the policy is float32: features in another precision need a copy of the weights of their
own in stage 2.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from fedvpa.core.compute import processor_name
from fedvpa.core.files import read_own_object, write_json
from fedvpa.core.processes import alone, current
from fedvpa.core.progress import say
from fedvpa.data.schema import PairTable
from fedvpa.features.calibration import PAIRS, Calibration, calibrate
from fedvpa.features.config import FeatureConfig
from fedvpa.features.identity import cache_key, folder_for
from fedvpa.features.keys import Keys, pair_keys
from fedvpa.models.device import resolve_device, resolve_dtype
from fedvpa.models.locate import ModelSource, locate

AUTOMATIC = ("float32", "bfloat16")
"""The precisions that ``auto`` means on one device or another; see :func:`fedvpa.models.device.resolve_dtype`."""

ENOUGH = 1000
"""From so many pairs on that are to be computed it is measured which precision is faster. Chosen by us: measuring then
takes less than a tenth of the time of the work."""


def settled(config: FeatureConfig, table: PairTable) -> FeatureConfig:
    """The configuration with a precision by name in place of ``calibrated``; any other as it is.

    What was measured is kept beside the cache of features, for this language model and way of reading, this kind of
    processor and this version of torch, and is not measured again. On a GPU, with a quantised model, and for fewer than
    ``ENOUGH`` pairs to compute, ``calibrated`` is ``auto``. Processes that are together take the first one's answer.

    Args:
        config: The model and how to read it.
        table: The pairs whose features are wanted.

    Raises:
        ModelError: If the model cannot be used.
    """
    if config.dtype != "calibrated":
        return config
    team = current()
    with alone():
        dtype = _decided(config, table) if team.main else ""
    return config.model_copy(update={"dtype": team.told(dtype)})


def with_precision(config: FeatureConfig, source: ModelSource, keys: Keys) -> FeatureConfig:
    """The configuration with ``dtype`` as it is used for pairs with these keys.

    ``auto`` is one precision on a GPU and another elsewhere. So that features from a GPU serve on a machine without
    one, the other precision is taken where it has most of the pairs, and more of them than the device's own. What is
    missing is then computed in it too, since the features of a table have one precision. (The rule is ours.)
    """
    own = _own(config)
    exact = config.model_copy(update={"dtype": own})
    if config.dtype != "auto":
        return exact
    (other,) = (dtype for dtype in AUTOMATIC if dtype != own)
    foreign = config.model_copy(update={"dtype": other})
    lacking = len(folder_for(exact, source).missing(keys))
    if not lacking:
        return exact
    lacking_there = len(folder_for(foreign, source).missing(keys))
    if lacking_there >= min(lacking, len(keys) / 2):
        return exact
    _say_precision(config.model, other, own)
    return foreign


def _own(config: FeatureConfig) -> str:
    """The precision that the configuration means on its device."""
    return str(resolve_dtype(config.dtype, resolve_device(config.device))).removeprefix("torch.")


def _decided(config: FeatureConfig, table: PairTable) -> str:
    source = locate(config.named_model(), config.loading)
    automatic = config.model_copy(update={"dtype": "auto"})
    if resolve_device(config.device).type != "cpu" or source.loading.quantization is not None:
        return _own(automatic)
    path = _record(config, source)
    if path.is_file():
        return Calibration(**read_own_object(path)).dtype
    keys = pair_keys(table.pairs)
    automatic = with_precision(automatic, source, keys)
    _, first = np.unique(keys, return_index=True)
    missing = first[folder_for(automatic, source).missing(keys[first])]
    if len(missing) < ENOUGH:
        return automatic.dtype
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            some = missing[np.linspace(0, len(missing) - 1, PAIRS).astype(int)]
            found = calibrate(table.select(some.tolist()).pairs, config, source)
            say(f"features.dtype=calibrated: {found}")
            write_json(path, {"speed": found.speed, "error": found.error, "problem": found.problem})
    return Calibration(**read_own_object(path)).dtype


def _record(config: FeatureConfig, source: ModelSource) -> Path:
    """Where it is kept what was measured."""
    key = {name: part for name, part in cache_key(config, source).items() if name not in ("dtype", "storage")}
    facts = [key, processor_name(), torch.__version__]
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return config.cache_root() / "precision" / f"{name}.json"


@lru_cache(maxsize=8)
def _say_precision(model: str, other: str, own: str) -> None:
    say(
        f"features of {model}: those that are kept were computed in {other}, on another kind of device, and are used; "
        f"features.dtype={own} computes them anew"
    )
