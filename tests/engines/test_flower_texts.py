"""Clients that train a language model give on Flower what they give on ``loop``."""

import importlib.util
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedvpa.algorithms.feddpo import FedDPO, FedDPOState
from fedvpa.algorithms.policy_method import server_rules
from fedvpa.core.errors import ConfigError, ModelError
from fedvpa.engines.checkpoint import load_checkpoint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.runner import Packed, Packs
from fedvpa.engines.text_federation import TextFederation
from fedvpa.engines.training import rounds, start
from text_clients import make_texts, share_texts, text_policy, text_settings

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.engines.flower.client import Node
from fedvpa.engines.flower.server import GridCohort
from here_grid import task
from text_grid import TextGrid

RUN = Path(__file__).resolve().parent / "flower_text_run.py"
spec = importlib.util.spec_from_file_location("flower_text_run", RUN)
assert spec is not None
assert spec.loader is not None
flower_text_run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(flower_text_run)
SEED = flower_text_run.SEED
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def method(**own: object) -> FedDPO:
    settings = text_settings(**own)
    return FedDPO(settings, server_rules(settings, settings.feddpo.rounds))


@pytest.fixture(scope="module")
def texts() -> TextFederation:
    return make_texts(SEED)


@pytest.mark.equivalence
def test_feddpo_on_flower_equals_the_loop(tmp_path: Path):
    pytest.importorskip("ray", reason="fedvpa[flower] is not installed")
    want, lines = flower_text_run.train("loop")
    # In a process of its own: Ray leaves children behind that Python warns about.
    subprocess.run([sys.executable, str(RUN), str(tmp_path)], check=True, timeout=900, capture_output=True)
    got, meta = load_checkpoint(tmp_path / "last.safetensors", FedDPOState)
    for one, two in zip(lines, meta["lines"], strict=True):
        assert {**one, "losses": 0} == {**two, "losses": 0}
        assert one["losses"] == pytest.approx(two["losses"], abs=1e-5)
    for name, leaf in want.server.params.items():
        torch.testing.assert_close(got.server.params[name], leaf, **CLOSE)


def on_grid(
    texts: TextFederation, algorithm: Any, engine: EngineConfig, shares: list[list[str]]
) -> tuple[list, TextGrid]:
    """States and lines of all rounds, and the grid, which has a node for each share of the users."""
    grid = TextGrid({number: Node(algorithm, share_texts(texts, names)) for number, names in enumerate(shares)})
    hosts = {name: number for number, node in grid.nodes.items() for name in node.holder.client_ids}
    run = GridCohort(grid, hosts, False, 1.0, 1.0, engine.codec)
    with task():
        return list(rounds(algorithm, texts, engine, SEED, start(algorithm, texts, SEED), run)), grid


@pytest.mark.equivalence
@pytest.mark.parametrize("codec", ["fp32", "int8"])
def test_nodes_with_models_of_their_own_give_what_the_loop_gives(codec: str, texts: TextFederation):
    first, second, third = texts.client_ids
    # Two users on one node have their sum encoded, and on the loop each update: under a codec that is not the same.
    shares = [[first, third], [second]] if codec == "fp32" else [[first], [second], [third]]
    algorithm, engine = method(), EngineConfig(name="loop", cohort=3, codec=codec)
    here = list(rounds(algorithm, texts, engine, SEED, start(algorithm, texts, SEED)))
    there, grid = on_grid(texts, algorithm, engine, shares)
    for (want, one), (got, two) in zip(here, there, strict=True):
        assert one["cohort"] == two["cohort"]
        for name, leaf in want.server.params.items():
            torch.testing.assert_close(got.server.params[name], leaf, **CLOSE)
    assert not any(there[-1][0].private.values())
    assert sorted(grid.parts) == sorted([share] for share in shares * 2), "a node sums the updates of its users"


@pytest.mark.unit
def test_what_travels_to_another_process_is_the_data_and_not_the_model(texts: TextFederation):
    assert isinstance(texts, Packs)
    assert isinstance(texts.packed(), Packed)
    sent = pickle.dumps(texts.packed())
    assert len(sent) < 100_000 < sum(leaf.nbytes for leaf in texts.policy.parameters())
    there = pickle.loads(sent).opened()
    assert there.policy is not texts.policy
    assert there.client_ids == texts.client_ids
    for name, leaf in texts.setting.start.items():
        assert torch.equal(there.policy.trained()[name], leaf), "the adapter starts as it did"


@pytest.mark.unit
def test_a_worker_with_another_model_is_refused(texts: TextFederation):
    with pytest.raises(ModelError, match="'bundled' is another one in this process"):
        replace(texts.packed(), content="sha256:other").opened()
    loaded = text_policy(text_settings(), SEED)
    loaded.again = None
    with pytest.raises(ConfigError, match=r"was loaded from a folder.*Use engine loop"):
        replace(texts, policy=loaded).packed()
