"""Whose values a run starts from: a real model's, or the bundled world's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedvpa.core.errors import ConfigError, ModelError
from fedvpa.data.config import DataConfig
from fedvpa.data.schema import Pair, PairTable
from fedvpa.features.config import FeatureConfig
from fedvpa.features.extract import load_features
from fedvpa.models.folder import local_place
from fedvpa.policy.config import PolicyConfig
from fedvpa.runs.config import RunConfig, dump, read_config, with_overrides
from fedvpa.runs.presets import BUNDLED_MODEL, WORLD, with_presets

pytestmark = pytest.mark.unit

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MEASURED: dict[str, Any] = {
    "lora_rank": 32,
    "lora_alpha": 64,
    "lora_dropout": 0.0,
    "beta": 1.0,
    "sft_weight": 40.0,
    "language_weight": 100.0,
    "steps": 450,
    "batch": 8,
    "lr": 0.003,
    "conditioner_lr": 0.02,
    "warmup": 0.1,
    "clip_norm": 1.0,
    "evaluate_every": 150,
    "refresh_every": 225,
    "refresh_prompts": 225,
    "candidates": {"prompts": 450, "validation_prompts": 80, "samples": 16, "temperature": 1.0, "top_p": 1.0}
    | {"max_new_tokens": 112, "batch": 300},
    "preferences": {"latents_per_prompt": 2, "prototypes": 0.4, "posteriors": 0.4, "pairs_per_latent": 2}
    | {"margin": 0.5},
    "judging": {"judge": "world", "prompts": 500, "temperature": 0.7, "top_p": 1.0},
    "guard": {"min_distinct": 0.5},
    "feddpo": {"rounds": 20, "cohort": 5, "steps": 4, "batch": 8},
}
"""What the figures of the docs were measured with."""

OWN = ("data.source=table", "data.path=pairs.jsonl")


def without(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Of ``found``, the keys that ``wanted`` has."""
    return {key: without(found[key], value) if isinstance(value, dict) else found[key] for key, value in wanted.items()}


@pytest.mark.parametrize("name", [None, *sorted(path.stem for path in CONFIGS.glob("world_*.yaml")), "paper"])
def test_a_run_on_the_world_starts_from_what_was_measured(name: str | None) -> None:
    config = read_config(None if name is None else CONFIGS / f"{name}.yaml")
    assert without(config.policy.model_dump(), MEASURED) == MEASURED
    assert config.features.model == "bundled"
    assert config.biscuit.lora.lr == 0.01
    # The model of the world stands in the resolved file, which reads back as itself.
    assert "model: bundled" in dump(config)


def test_own_data_start_from_the_values_of_a_real_model() -> None:
    config = read_config(None, [*OWN, "features.model=someone/chat"])
    assert config.policy == PolicyConfig()
    policy = config.policy
    assert (policy.beta, policy.lora_rank, policy.lora_alpha, policy.lr) == (0.1, 16, 32, 1e-4)
    assert policy.sft_weight <= 0.2
    assert policy.language_weight == 0
    assert policy.guard.min_distinct == 0.85
    # FedDPO's clients read as many pairs as the other methods, which read each pair of theirs about once.
    dpo, made = policy.feddpo, policy.candidates.prompts * policy.preferences.latents_per_prompt
    assert dpo.rounds * dpo.cohort * dpo.steps * dpo.batch == policy.steps * policy.batch
    assert 0.9 < policy.steps * policy.batch / made < 1.1
    assert policy.conditioner_lr == 10 * policy.lr
    assert config.biscuit.lora.lr == policy.lr


@pytest.mark.parametrize("key", ["features.model", "policy.model"])
def test_another_model_on_the_world_gets_the_values_of_a_real_one(key: str) -> None:
    policy = read_config(None, [f"{key}=someone/chat"]).policy
    assert (policy.beta, policy.lr, policy.candidates.samples) == (0.1, 1e-4, 4)
    assert policy.judging.judge == "world"


def test_the_bundled_model_has_its_values_on_own_data_too_but_not_the_worlds_judge() -> None:
    policy = read_config(None, [*OWN, "features.model=bundled"]).policy
    assert without(policy.model_dump(), {**MEASURED, "judging": {}}) == {**MEASURED, "judging": {}}
    assert policy.judging == PolicyConfig().judging


def test_what_is_given_wins_and_the_rest_of_its_section_stays_the_worlds(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("policy: {beta: 0.3, candidates: {samples: 5}}\n")
    policy = read_config(path, ["policy.lr=0.001", "policy.judging.judge=openai-compatible"]).policy
    assert (policy.beta, policy.candidates.samples, policy.lr) == (0.3, 5, 0.001)
    assert (policy.sft_weight, policy.candidates.prompts) == (40.0, 450)
    assert policy.judging.judge == "openai-compatible"


def test_a_whole_configuration_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    real = RunConfig.parse({"policy": PolicyConfig().model_dump()})
    for config in (RunConfig(), real, read_config(None, [*OWN, "features.model=bundled"])):
        path.write_text(dump(config))
        assert read_config(path) == config
        assert with_overrides(config, ["seed=7"]).policy == config.policy
    assert real.policy.beta == 0.1


def test_sections_that_are_built_already_are_taken_as_they_are() -> None:
    assert RunConfig(policy=PolicyConfig()).policy == PolicyConfig()
    assert RunConfig(data=DataConfig(source="table", path="pairs.jsonl")).policy == PolicyConfig()
    assert RunConfig(features=FeatureConfig(model="someone/chat")).policy.beta == 0.1
    given = {"data": {"source": "table"}, "features": {"model": "someone/chat"}, "policy": {}}
    assert with_presets(given) == given
    assert with_presets({"policy": None})["policy"] is None


def test_nothing_of_the_presets_is_changed_by_a_run() -> None:
    read_config(None, ["policy.candidates.samples=3"])
    assert BUNDLED_MODEL["policy"]["candidates"]["samples"] == 16
    assert WORLD["features"] == {"model": "bundled"}


def test_own_data_have_no_language_model_by_default(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    config = read_config(None, ["data.source=table", f"data.path={tmp_path / 'pairs.jsonl'}"])
    for asked in (
        config.check_paths,
        lambda: load_features(PairTable((Pair("p", "a", "b"),)), config.features),
        config.features.named_model,
    ):
        with pytest.raises(
            ConfigError, match=r"'features.model': No language model is named.*features.model=PATH.*toy"
        ):
            asked()


def test_no_name_is_no_folder() -> None:
    with pytest.raises(ModelError, match="No language model is named"):
        local_place("")
