"""The frozen model behind the features: which one, and which of its layers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedvpa.core.errors import ConfigError
from fedvpa.data.schema import Pair, PairTable
from fedvpa.features.backbone import load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import load_features
from fedvpa.models.locate import ModelSource


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    return Path(shutil.copytree(model_folder("qwen2"), tmp_path / "model"))


@pytest.mark.unit
def test_no_such_layer_or_device(folder):
    with pytest.raises(ConfigError, match=r"hidden states 0 \(embeddings\) to 3"):
        load_backbone(FeatureConfig(model=str(folder), layer=4))
    with pytest.raises(ConfigError, match="'quantum' cannot be used"):
        load_backbone(FeatureConfig(model=str(folder), device="quantum"))


@pytest.mark.unit
def test_a_located_model_is_not_located_again(folder):
    source = ModelSource("someone/model", folder, folder.name)
    assert load_backbone(FeatureConfig(model="someone/model"), source).kind == "causal"


@pytest.mark.unit
def test_the_bundled_model_shares_prompts(tmp_path):
    table = PairTable((Pair("How do I bake a loaf?", "Thank you for this question.", "No."),))
    features = load_features(table, FeatureConfig(model="bundled", cache_dir=tmp_path, device="cpu"))
    assert features.report.kind == "causal"
    assert features.report.pairs_sharing_prompt == 1
    assert abs(features.differences()).max() > 0
