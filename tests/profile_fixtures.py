"""A tiny run of the bundled world whose users can be told apart, for the tests of profiles."""

from pathlib import Path

import pytest
import torch

from fedvpa.api.train import train
from fedvpa.runs.config import read_config
from fedvpa.selector.selector import Selector
from run_fixtures import TINY


@pytest.fixture(scope="session")
def telling_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to read only: its two prototypes are opposites and its head reads all features, so every pair says much."""
    out = tmp_path_factory.mktemp("profiles") / "run"
    train(read_config(None, TINY), out)
    selector = Selector.from_pretrained(out)
    apart = torch.stack([selector.prototypes[0], -selector.prototypes[0]])
    generator = torch.Generator().manual_seed(3)
    head = {"head.personal": selector.params["head.personal"] + 0.2 * torch.randn(13, 13, generator=generator)}
    even = torch.full((2,), 0.5).log()
    changed = {**selector.params, **head, "prototypes": apart, "log_vars": torch.zeros_like(apart)}
    Selector(
        selector.config, selector.inference, changed, even, selector.gain, selector.scaling, selector.feature_key
    ).save_pretrained(out / "selector")
    return out
