"""What secure aggregation cannot be had with is said before anything runs, under the keys of the one who asks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import make_federation
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server.validation import Bounds, Expected
from fedvpa.alignment.federated_job import check_clients
from fedvpa.api.train import train as train_run
from fedvpa.core.errors import ConfigError
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.secure_aggregation import check_additive, check_nodes, check_secure, layout_of
from fedvpa.engines.training import start
from fedvpa.runs.config import read_config
from policy_fixtures import world_config
from tests_shared import config
from text_clients import text_task

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.api.export import export_flower

LIMITS = {"clip_norm": 1.0, "max_weight": 8}
ENGINE = EngineConfig(cohort=10, secure_aggregation=True)
FEDERATION = make_federation()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("engine", "server", "said"),
    [
        ({"name": "vectorised"}, {}, r"on engine\.name=vectorised there are no nodes\. Give engine\.name=flower"),
        ({"name": "loop"}, {}, r"engine\.name=loop"),
        ({}, {"rule": "median"}, r"server\.rule=median compares single updates.*Give server\.rule=mean"),
        ({}, {"rule": "trimmed_mean"}, "trimmed_mean"),
        ({}, {"rule": "krum"}, "krum"),
        ({}, {"clip_norm": "auto"}, r"server\.clip_norm=auto does not say how long.*server\.clip_norm=1\.0"),
        ({}, {"clip_norm": None}, r"server\.clip_norm=null"),
        ({}, {"max_weight": "auto"}, r"server\.max_weight=auto does not say how heavy a client"),
        ({}, {"max_weight": None}, r"server\.max_weight=null"),
        ({"codec": "int8"}, {}, r"engine\.codec=int8 rounds single updates.*engine\.codec=fp32"),
        ({"cohort": 2}, {}, r"engine\.cohort=2 is too small"),
    ],
)
def test_what_cannot_be_had_with_it_is_said(engine: dict[str, Any], server: dict[str, Any], said: str):
    given = EngineConfig(**{"name": "flower", "secure_aggregation": True, **engine})
    rules = config(server={**LIMITS, **server}).server
    with pytest.raises(ConfigError, match=said):
        check_secure(given, rules)
    check_secure(given.model_copy(update={"secure_aggregation": False}), rules)
    if "name" in engine:
        check_secure(given, rules, deployed=True)


@pytest.mark.unit
def test_methods_that_read_single_clients_and_federations_that_are_too_small_are_refused():
    setting = config(server=LIMITS, variational={"prior": "posteriors"})
    for method, what in (("fedvpa_gp", "log_var, mean"), ("fedbiscuit", "label, losses")):
        algorithm = make(method, setting)
        state = start(algorithm, FEDERATION, 5).server
        with pytest.raises(ConfigError, match=rf"'{method}' reads {what} of every single client"):
            check_additive(ENGINE, algorithm, state, 10)
        check_additive(EngineConfig(), algorithm, state, 10)
    algorithm = make("fedeb", setting)
    with pytest.raises(ConfigError, match="a round asks 2 of 2 clients"):
        check_additive(ENGINE, algorithm, start(algorithm, FEDERATION, 5).server, 2)
    with pytest.raises(ConfigError, match="a deployment of 2 nodes is too small"):
        check_nodes(True, 2)
    check_nodes(True, 3)
    check_nodes(False, 1)


@pytest.mark.unit
def test_how_large_a_tensor_may_be_follows_from_the_limits_and_the_bounds():
    bounds = {"kept": Bounds((), -3.0, 2.0), "loss": Bounds((3,), 0.0, 2.0, per="weight")}
    rules = config(server={"clip_norm": 0.5, "max_weight": 8}).server
    layout = layout_of(Expected({"w": (2, 5)}, bounds), rules, {}, 7)
    assert layout.largest == {"weight": 8.0, "delta.w": 4.0, "kept": 3.0, "loss": 16.0}
    assert layout.shapes == {"weight": (), "delta.w": (2, 5), "kept": (), "loss": (3,)}
    assert layout.clients == 7
    with pytest.raises(ConfigError, match="needs numbers"):
        layout_of(Expected({}), config().server, {}, 7)


@pytest.mark.unit
def test_policies_are_asked_under_their_own_keys():
    given = {"secure_aggregation": True, "clip_norm": 1.0, "max_weight": 8}
    task = text_task()

    def check(method: str = "feddpo", deployed: bool = False, feddpo: dict[str, Any] | None = None, **clients: Any):
        settings = world_config(clients={**given, **clients}, feddpo=feddpo or {"cohort": 3})
        check_clients(method, replace(task, settings=settings), deployed=deployed)

    for clients, said in [
        ({}, r"policy\.clients\.engine=loop there are no nodes\. Give policy\.clients\.engine=flower"),
        ({"engine": "flower", "max_weight": "auto"}, r"policy\.clients\.max_weight=auto"),
        ({"engine": "flower", "rule": "krum"}, r"policy\.clients\.rule=krum"),
        ({"engine": "flower", "feddpo": {"cohort": 2}}, r"policy\.feddpo\.cohort=2 is too small"),
    ]:
        with pytest.raises(ConfigError, match=said):
            check(**clients)
    check(engine="flower")
    check(deployed=True)


@pytest.mark.end_to_end
def test_a_run_and_an_exported_app_are_refused_before_anything_is_written(tmp_path: Path):
    numbers = ["server.clip_norm=1.0", "server.max_weight=8", "engine.secure_aggregation=true"]
    with pytest.raises(ConfigError, match=r"engine\.name=vectorised there are no nodes"):
        train_run(read_config(None, numbers), tmp_path / "run")
    with pytest.raises(ConfigError, match="2 nodes is too small for secure aggregation"):
        export_flower(read_config(None, numbers), tmp_path / "app", out=tmp_path / "out", nodes=2)
    with pytest.raises(ConfigError, match=r"server\.max_weight=auto"):
        export_flower(read_config(None, [numbers[0], numbers[2]]), tmp_path / "app", out=tmp_path / "out", nodes=3)
    assert not list(tmp_path.iterdir())
    export_flower(read_config(None, numbers), tmp_path / "app", out=tmp_path / "out", nodes=3)
