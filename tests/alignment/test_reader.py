"""The features' language model and the policy's base, where they are one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fedvpa.alignment import reader as module
from fedvpa.alignment.reader import reader_of
from fedvpa.features.backbone import load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.responses import features_of
from policy_fixtures import disturb, make_policy, save_model

TEXTS = ["w3 w5", "w3 w5", "w7", "w11 w2 w4"]
ANSWERS = ["w1 w2", "w9", "w13 w17 w19", "w5"]


def stage_of(**features: Any) -> Any:
    """A stage that may not load its model a second time."""
    return SimpleNamespace(features=FeatureConfig(device="cpu", **features), backbone="loaded again")


@pytest.mark.equivalence
@pytest.mark.parametrize("kind", ["soft_prefix", "additive", None])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_base_of_a_policy_in_training_reads_as_the_model_alone(
    base_folder: Path, kind: str | None, checkpointing: bool
) -> None:
    stage = stage_of(model=str(base_folder), storage="float32")
    policy = make_policy(base_folder, kind, gradient_checkpointing=checkpointing, lora_dropout=0.4).train()
    reader = reader_of(stage, policy)
    ours = features_of(TEXTS, ANSWERS, reader, stage.features)
    theirs = features_of(TEXTS, ANSWERS, load_backbone(stage.features), stage.features)
    assert ours.equal(theirs)
    assert policy.training
    disturb(policy)
    assert features_of(TEXTS, ANSWERS, reader, stage.features).equal(theirs)
    weights = {id(weight) for weight in policy.parameters()}
    assert all(id(weight) in weights for weight in reader.model.parameters())


@pytest.mark.unit
def test_another_layer_is_read_from_it_too(base_folder: Path) -> None:
    stage = stage_of(model=str(base_folder), storage="float32", layer=1)
    ours = features_of(TEXTS, ANSWERS, reader_of(stage, make_policy(base_folder)), stage.features)
    assert ours.equal(features_of(TEXTS, ANSWERS, load_backbone(stage.features), stage.features))


@pytest.mark.unit
def test_another_model_precision_or_body_is_loaded_apart(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_policy(base_folder)
    assert reader_of(stage_of(model=str(save_model(tmp_path, seed=5))), policy) == "loaded again"
    assert reader_of(stage_of(model=str(base_folder), dtype="bfloat16"), policy) == "loaded again"
    monkeypatch.setattr(module, "MODEL_MAPPING", {})
    assert reader_of(stage_of(model=str(base_folder)), policy) == "loaded again"
