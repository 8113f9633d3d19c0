"""Clients that train a language model give on Flower what they give on ``loop``."""

import importlib.util
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedvpa.alignment.federated_job import fresh_policy
from fedvpa.core.errors import ConfigError, ModelError
from fedvpa.engines.checkpoint import load_checkpoint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.runner import Packed, Packs
from text_clients import Texts, text_task

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
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def texts(request: pytest.FixtureRequest) -> Texts:
    return Texts.of(request.param)


@pytest.mark.equivalence
def test_flower_equals_the_loop(tmp_path: Path):
    pytest.importorskip("ray", reason="fedvpa[flower] is not installed")
    # In a process of its own: Ray leaves children behind that Python warns about.
    subprocess.run([sys.executable, str(RUN), str(tmp_path)], check=True, timeout=900, capture_output=True)
    for name in flower_text_run.METHODS:
        want, lines = flower_text_run.train(name, "loop")
        got, meta = load_checkpoint(tmp_path / f"{name}.safetensors", type(want.server))
        for one, two in zip(lines, meta["lines"], strict=True):
            assert {**one, "losses": 0} == {**two, "losses": 0}
            assert one["losses"] == pytest.approx(two["losses"], rel=1e-4, abs=1e-5)
        for key, leaf in want.server.params.items():
            torch.testing.assert_close(got.server.params[key], leaf, **CLOSE)


@pytest.mark.equivalence
@pytest.mark.parametrize(("texts", "codec"), [("feddpo", "fp32"), ("feddpo", "int8")], indirect=["texts"])
def test_nodes_with_models_of_their_own_give_what_the_loop_gives(codec: str, texts: Texts):
    first, second, third = texts.clients.client_ids
    # Two users on one node have their sum encoded, and on the loop each update: under a codec that is not the same.
    shares = [[first, third], [second]] if codec == "fp32" else [[first], [second], [third]]
    engine = EngineConfig(name="loop", cohort=3, codec=codec)
    grid = TextGrid({number: Node(texts.algorithm, texts.share(names)) for number, names in enumerate(shares)})
    hosts = {name: number for number, node in grid.nodes.items() for name in node.holder.client_ids}
    with task():
        states, lines = texts.train(engine, GridCohort(grid, hosts, False, 1.0, 1.0, codec))
    for got, two, want, one in zip(states, lines, *texts.train(engine), strict=True):
        assert one["cohort"] == two["cohort"]
        for name, leaf in want.server.params.items():
            torch.testing.assert_close(got.server.params[name], leaf, **CLOSE)
    assert not any(states[-1].private.values())
    assert sorted(grid.parts) == sorted([share] for share in shares * 2), "a node sums the updates of its users"


@pytest.mark.unit
@pytest.mark.parametrize("texts", flower_text_run.METHODS, indirect=True)
def test_what_travels_to_another_process_is_the_data_and_not_the_model(texts: Texts):
    assert isinstance(texts.clients, Packs)
    assert isinstance(texts.clients.packed(), Packed)
    sent = pickle.dumps(texts.clients.packed())
    assert len(sent) < 100_000 < sum(leaf.nbytes for leaf in texts.clients.policy.parameters())
    there = pickle.loads(sent).opened()
    assert there.policy is not texts.clients.policy
    assert there.client_ids == texts.clients.client_ids
    for name, leaf in texts.clients.setting.start.items():
        assert torch.equal(there.policy.trained()[name], leaf), "the adapter starts as it did"


@pytest.mark.unit
@pytest.mark.parametrize("texts", ["feddpo"], indirect=True)
def test_a_worker_with_another_model_is_refused(texts: Texts):
    with pytest.raises(ModelError, match="'bundled' is another one in this process"):
        replace(texts.clients.packed(), content="sha256:other").opened()
    other = fresh_policy(text_task())
    other.again = None
    with pytest.raises(ConfigError, match=r"Nothing says how.*Use engine loop"):
        replace(texts.clients, policy=other).packed()
