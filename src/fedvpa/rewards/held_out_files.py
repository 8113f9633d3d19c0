"""The folder of a judge: a linear reward for each preference, how good they are, and which pairs they were trained on.

``judge.json`` says how texts are read and how often each reward was right about pairs that it was not trained on;
``judge.safetensors`` has the weights and a hash of every training pair. It holds no text. Whoever has a pair can tell
from its hash that the judge was trained on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from fedvpa.core.content import hash_files
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.files import read_own_object, write_json
from fedvpa.core.schema import VERSIONS, check_version
from fedvpa.core.short_repr import short_repr
from fedvpa.core.tensors import write_tensors
from fedvpa.features.config import FeatureConfig
from fedvpa.rewards.base import HeldOutAccuracy

SETTINGS_FILE, TENSORS_FILE = "judge.json", "judge.safetensors"

TRAIN_ONE = "Train one: fedvpa judge --config CONFIG --model ENCODER --out FOLDER."


@dataclass(frozen=True, repr=False)
class SavedJudge:
    """What a judge's folder holds.

    Attributes:
        features: How responses become features; its ``model`` is where the language model was.
        content: Names that model's weights and tokenizer.
        weights: Preference → the weights of its linear reward; [d].
        strengths: Preference → λ of :mod:`fedvpa.rewards.linear`.
        accuracy: Preference → how often the reward orders pairs right that it was not trained on.
        pairs: Hashes of the pairs that it was trained on; see :func:`fedvpa.data.reserve.pair_identity`.
        data: Where the pairs are from, in words.
    """

    features: FeatureConfig
    content: str
    weights: Mapping[str, Float[Tensor, " d"]]
    strengths: Mapping[str, float]
    accuracy: Mapping[str, HeldOutAccuracy]
    pairs: frozenset[int]
    data: str

    __repr__ = short_repr


def save_judge(judge: SavedJudge, folder: Path) -> None:
    """Write a judge's folder."""
    tensors = {f"weights.{name}": values.contiguous() for name, values in judge.weights.items()}
    tensors["pairs"] = torch.tensor(sorted(judge.pairs), dtype=torch.int64)
    write_tensors(folder / TENSORS_FILE, tensors, {"schema_version": str(VERSIONS["judge"])})
    settings = {
        "schema_version": VERSIONS["judge"],
        "features": judge.features.model_dump(mode="json", exclude={"cache_dir"}),
        "content": judge.content,
        "strengths": dict(judge.strengths),
        "accuracy": {name: asdict(found) for name, found in judge.accuracy.items()},
        "data": judge.data,
    }
    write_json(folder / SETTINGS_FILE, settings)


def load_judge(folder: Path) -> SavedJudge:
    """Read what :func:`save_judge` wrote.

    Raises:
        ConfigError: If there is no judge in the folder.
        RunError: If it is damaged, or of another schema version.
    """
    if not is_judge(folder):
        raise ConfigError(
            "holds no judge." if folder.is_dir() else "There is no such folder.", fix=TRAIN_ONE, where=str(folder)
        )
    found = read_own_object(folder / SETTINGS_FILE)
    version = found.get("schema_version")
    check_version("judge", version, where=str(folder), fix="Train it again: fedvpa judge.")
    tensors = _tensors(folder / TENSORS_FILE)
    missing = {"pairs", *(f"weights.{name}" for name in found["accuracy"])} - tensors.keys()
    if missing:
        raise RunError(f"lacks {min(missing)!r}.", fix="Train it again: fedvpa judge.", where=str(folder))
    return SavedJudge(
        features=FeatureConfig.parse(found["features"]),
        content=found["content"],
        weights={name: tensors[f"weights.{name}"] for name in found["accuracy"]},
        strengths=found["strengths"],
        accuracy={name: _accuracy(values) for name, values in found["accuracy"].items()},
        pairs=frozenset(tensors["pairs"].tolist()),
        data=found["data"],
    )


def is_judge(folder: Path) -> bool:
    """Whether a folder holds a judge."""
    return (folder / SETTINGS_FILE).is_file()


def judge_content(folder: Path) -> str:
    """A hash of what a judge's folder holds."""
    return hash_files([folder / SETTINGS_FILE, folder / TENSORS_FILE])


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except Exception as error:  # safetensors raises a class of its own, and OSError
        raise RunError(f"cannot be read ({error}).", fix="Train it again: fedvpa judge.", where=str(file)) from error


def _accuracy(values: Mapping[str, Any]) -> HeldOutAccuracy:
    interval = values["ci95"]
    return HeldOutAccuracy(**{**values, "ci95": None if interval is None else tuple(interval)})
