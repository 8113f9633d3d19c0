from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fedvpa.alignment.candidates import Candidates, _assemble, candidates_key, pair_candidates
from fedvpa.alignment.preferences import language_floor
from fedvpa.data.schema import Message, Pair, PairTable
from fedvpa.features.config import FeatureConfig
from fedvpa.policy.config import CandidateConfig
from fedvpa.policy.policy import new_policy
from policy_fixtures import make_tokenizer, save_model, tiny_config

TEXTS = ["w1 w2", (Message("user", "w3"),)]
SAMPLED = {"samples": 3, "max_new_tokens": 11}


@pytest.mark.unit
def test_whatever_decides_candidates_names_them(base_folder: Path, tmp_path: Path):
    policy = new_policy(tiny_config(base_folder), str(base_folder), None, 3, device="cpu")
    half = new_policy(tiny_config(base_folder, precision="bfloat16"), str(base_folder), None, 3, device="cpu")
    assert half.model.get_input_embeddings().weight.dtype == torch.bfloat16
    shorter = new_policy(tiny_config(base_folder, max_prompt_tokens=60), str(base_folder), None, 3, device="cpu")
    bare = shutil.copytree(base_folder, tmp_path / "tokenizer")
    make_tokenizer(bos=False).save_pretrained(bare)
    other = {
        name: new_policy(tiny_config(folder), str(folder), None, 3, device="cpu")
        for name, folder in (("weights", save_model(tmp_path / "weights", 18)), ("tokenizer", bare))
    }
    ends = shutil.copytree(base_folder, tmp_path / "ends")
    (ends / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    read = {
        "ends": new_policy(tiny_config(ends), str(ends), None, 3, device="cpu"),
        "template": new_policy(tiny_config(base_folder, template="chat"), str(base_folder), None, 3, device="cpu"),
        "day": new_policy(
            tiny_config(base_folder, template_arguments={"today": "2025-03-04"}),
            str(base_folder),
            None,
            3,
            device="cpu",
        ),
    }
    config, features = CandidateConfig(**SAMPLED), FeatureConfig(dtype="float32")

    def key(policy=policy, texts=TEXTS, config=config, meaning="mean", features=features, seed=0, path=("train",)):
        return candidates_key(policy, texts, config, meaning, features, seed, *path)

    keys = [
        key(),
        key(policy=half),
        key(policy=shorter),
        key(policy=other["weights"]),
        key(policy=other["tokenizer"]),
        *(key(policy=one) for one in read.values()),
        key(texts=TEXTS[:1]),
        key(config=CandidateConfig(**{**SAMPLED, "max_new_tokens": 12})),
        key(config=CandidateConfig(**{**SAMPLED, "temperature": 0.9})),
        key(meaning="last"),
        key(features=FeatureConfig(dtype="bfloat16")),
        key(features=FeatureConfig(dtype="float32", storage="float32")),
        key(seed=1),
        key(path=("validation",)),
    ]
    assert len(set(keys)) == len(keys)
    # The same model elsewhere, trained to something else, has the same base.
    moved = shutil.copytree(base_folder, tmp_path / "moved")
    same = new_policy(tiny_config(moved, lora_rank=5, beta=0.3), str(moved), 4, 9, device="cpu")
    assert key(policy=same) == key()


@pytest.mark.unit
def test_pairs_as_candidates_are_what_the_policy_could_have_said(monkeypatch, base_folder: Path):
    """No longer than a sample, and ended only if they end before that: a cut response is not taught to end there."""
    policy = new_policy(tiny_config(base_folder), str(base_folder), None, 3, device="cpu")
    pairs = [Pair("w1", " ".join(f"w{number}" for number in range(length)), "w9 w8") for length in (10, 11, 20)]

    def features(table: PairTable, *_: object) -> SimpleNamespace:
        zeros = np.zeros((len(table), 2), np.float32)
        return SimpleNamespace(chosen=zeros, rejected=zeros)

    monkeypatch.setattr("fedvpa.alignment.candidates.extract", features)
    found = pair_candidates(policy, pairs, CandidateConfig(**SAMPLED), None, FeatureConfig())
    assert [[len(ids) for ids in group] for group in found.responses] == [[11, 3], [11, 3], [11, 3]]
    assert [[int(ids[-1]) == policy.tokenizer.eos for ids in group] for group in found.responses] == [
        [True, True],
        [False, True],
        [False, True],
    ]


@pytest.mark.unit
def test_samples_without_a_token_make_no_pairs(monkeypatch, base_folder: Path, tmp_path: Path):
    """A model may end its answer before the first token; a file of an earlier release counts such samples."""
    policy = new_policy(tiny_config(base_folder), str(base_folder), None, 3, device="cpu")
    nothing = np.zeros(0, np.int32)
    flat = [np.array(ids, np.int32) for ids in ([7, 8], [], [7, 8], [9], [], [])]
    monkeypatch.setattr("fedvpa.alignment.candidates.features_of", lambda *_: torch.zeros(6, 2))
    made = _assemble(policy, ["w1", "w2"], policy.tokenizer.prompts(["w1", "w2"]), flat, 3, None, FeatureConfig())
    assert made.distinct.tolist() == [[True, False, False], [True, False, False]]
    assert made.least[0, 1] == 0
    assert made.least[0, 0] == float(made.reference[0][0].min()) < 0
    assert np.isfinite(language_floor(made))
    replace(made, distinct=torch.ones(2, 3, dtype=torch.bool)).save(tmp_path / "earlier")
    assert Candidates.load(tmp_path / "earlier").distinct.tolist() == [[True, False, True], [True, False, False]]
    assert np.array_equal(Candidates.load(tmp_path / "earlier").responses[1][2], nothing)
