from pathlib import Path

import pytest

from fedvpa.api.train import train
from fedvpa.runs.config import RunConfig, read_config

TINY = (
    "partition.kind=natural",
    "partition.clients=7",
    "partition.unseen=3",
    "data.pairs_per_user=11",
    "server.rounds=5",
    "local.steps=2",
    "selector.latent=13",
    "selector.rotation=13",
    "eb.components=2",
    "engine.cohort=3",
    "engine.workers=1",
    "engine.checkpoint_every=2",
)
"""A world of ten users that trains in a fraction of a second."""

TINY_POLICY = (
    "policy.steps=2",
    "policy.batch=3",
    "policy.lora_rank=2",
    "policy.evaluate_every=2",
    "policy.candidates.prompts=5",
    "policy.candidates.validation_prompts=3",
    "policy.candidates.samples=4",
    "policy.candidates.max_new_tokens=13",
    "policy.preferences.margin=0",
    "policy.preferences.check=warn",
    "policy.guard.max_kl=1000",
    "policy.guard.max_drop=1000",
    "policy.guard.min_distinct=0",
    "policy.judging.prompts=3",
)
"""A policy that trains in seconds."""


@pytest.fixture(scope="session")
def tiny() -> RunConfig:
    return read_config(None, TINY)


@pytest.fixture(scope="session")
def finished(tiny: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run directory, to read only."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    train(tiny, out)
    return out
