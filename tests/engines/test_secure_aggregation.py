"""Secure aggregation on Flower: the sum changes by no more than rounding, and drop-outs give nothing away."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.registry import make
from fedvpa.core.errors import DataError, FedvpaError
from fedvpa.data.partition import Partition
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.federation import Federation
from fedvpa.engines.private import Privacy, Terms
from fedvpa.engines.training import rounds, start
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.privacy.keyed import Key
from tests_shared import config, replay
from text_clients import Texts

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from flwr.app import RecordDict

from fedvpa.engines.flower import secure_node
from fedvpa.engines.flower.client import Node
from fedvpa.engines.flower.secure_records import SHARE, UNMASK, Collected, pack_collected, pack_keys, record
from fedvpa.engines.flower.secure_server import SecureCohort
from fedvpa.engines.flower.server import GridCohort
from fedvpa.privacy.secure_sum import PublicKeys
from here_grid import context, task
from secure_nodes import FEDERATION, SETTING, Nodes, runner
from text_grid import TextGrid

ENGINE = EngineConfig(cohort=10, workers=1, secure_aggregation=True)
UNIFORM = 1e-6
"""How often a χ² test fails on uniform numbers. Keys come from the operating system, so this is how often it does."""


@pytest.fixture(autouse=True)
def _task():
    with task():
        yield


def train(
    grid: Nodes, method: str = "fedeb", engine: EngineConfig = ENGINE, most: int = 1
) -> tuple[Any, list[dict[str, Any]]]:
    """The server's state and the lines of history after the first rounds."""
    algorithm, lines = make(method, SETTING), []
    state = start(algorithm, FEDERATION, 5)
    for reached, line in islice(rounds(algorithm, FEDERATION, engine, 5, state, runner(grid)), most):
        state = reached
        lines.append(line)
    return state.server, lines


@pytest.mark.equivalence
@pytest.mark.parametrize("method", ["fedeb", "fedvpa_gp"])
def test_a_training_is_that_without_it(method: str, tmp_path: Path):
    algorithm = make(method, SETTING)
    plain = EngineConfig(name="loop", cohort=10)
    *_, (want, line) = rounds(algorithm, FEDERATION, plain, 5, start(algorithm, FEDERATION, 5))
    got, lines = train(Nodes(tmp_path, method), method, most=2)
    for name, leaf in want.server.params.items():
        torch.testing.assert_close(got.params[name], leaf, rtol=1e-4, atol=2e-6)
    assert lines[-1]["losses"] == pytest.approx(line["losses"], rel=1e-4)
    assert not any(line["dropped"] or line["rejected"] for line in lines)
    size = sum(leaf.numel() for leaf in want.server.params.values())
    assert lines[-1]["uplink_bytes"] > 10 * 4 * size
    assert lines[-1]["downlink_bytes"] > line["downlink_bytes"]


@pytest.mark.equivalence
@pytest.mark.parametrize("stage", ["query.secure_setup", f"query.{SHARE}", "train"])
def test_three_of_ten_drop_out_and_the_round_is_that_of_the_others(stage: str, tmp_path: Path, capsys):
    grid = Nodes(tmp_path, until=dict.fromkeys((1, 4, 9), stage))
    got, lines = train(grid, most=2)
    gone = ["client-1", "client-4", "client-9"]
    assert [line["dropped"] for line in lines] == [gone, gone]
    assert "dropped out: client-4 (no answer within 0 s)" in capsys.readouterr().err
    want = replay(make("fedeb", SETTING), FEDERATION, 5, lines)
    for name, leaf in want.params.items():
        torch.testing.assert_close(got.params[name], leaf, rtol=1e-4, atol=2e-6)


@pytest.mark.unit
def test_who_falls_silent_in_the_last_stage_is_in_the_sum(tmp_path: Path):
    _, lines = train(Nodes(tmp_path, until=dict.fromkeys((0, 2, 3), f"query.{UNMASK}")), most=2)
    assert lines[0]["dropped"] == [], "their vectors were there"
    assert lines[1]["dropped"] == ["client-0", "client-2", "client-3"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("query.secure_setup", "6 of 10 nodes gave keys"),
        (f"query.{SHARE}", "6 of 10 nodes dealt shares"),
        ("train", "6 of 10 nodes sent a vector"),
        (f"query.{UNMASK}", "6 of 10 nodes gave shares that unmask"),
    ],
)
def test_too_many_drop_out_and_nothing_can_be_read(stage: str, said: str, tmp_path: Path):
    grid = Nodes(tmp_path, until=dict.fromkeys((1, 2, 3, 5), stage))
    with pytest.raises(FedvpaError, match=rf"round 0: .*{said}, and 7 must\. No update .*no answer within 0 s"):
        train(grid)
    shares = [one for _, kind, _, one in grid.said if kind == f"query.{UNMASK}"]
    assert len(shares) == (6 if stage == f"query.{UNMASK}" else 0), "below the threshold nobody gives a share"
    vectors = [one for _, kind, _, one in grid.said if kind == "train"]
    assert all("sums" not in one.array_records and "own" not in one.array_records for one in vectors)


@pytest.mark.reference
def test_what_the_server_has_of_one_node_is_uniform(tmp_path: Path):
    """χ² of the masked integers of every node together, at ``UNIFORM`` in all."""
    grid = Nodes(tmp_path, until={3: "train"})
    train(grid)
    vectors = [one.array_records["masked"].to_numpy_ndarrays() for _, kind, _, one in grid.said if kind == "train"]
    assert len(vectors) == 9
    narrow, wide = (np.concatenate([one[place] for one in vectors]).view(np.uint8) for place in (0, 1))
    for counted in (narrow, wide):
        found = np.bincount(counted, minlength=256)
        assert stats.chisquare(found).pvalue > UNIFORM / 2


@pytest.mark.unit
def test_messages_hold_no_update_no_secret_and_of_no_node_both_shares(tmp_path: Path):
    grid = Nodes(tmp_path, until={3: "train"})
    train(grid)
    for node, kind, request, reply in grid.said:
        values = dict(reply.config_records.get("secure", {}))
        assert "sums" not in reply.array_records
        assert set(request.array_records) <= {"shared"}
        if kind == f"query.{UNMASK}":
            assert not set(values["sent"]) & set(values["silent"])
            assert values["silent"] in (["3"], [])
            assert "secure_aggregation" not in grid.contexts[node].state, "forgotten once it was answered"
    given = {kind: set(dict(reply.config_records["secure"])) for _, kind, _, reply in grid.said if kind != "train"}
    assert given["query.secure_setup"] == {"mask", "cipher", "seed"}
    assert given[f"query.{SHARE}"] == {"nodes", "sealed"}


@pytest.mark.unit
def test_a_server_that_asks_for_more_is_refused(tmp_path: Path):
    nodes = {node: context(node) for node in range(4)}

    def dealt(threshold: int = 3) -> dict[int, dict[int, bytes]]:
        hello = record(request="r")
        told = {node: secure_node.set_up(one, hello).config_records["secure"] for node, one in nodes.items()}
        content = pack_keys("r", {node: PublicKeys(**values) for node, values in told.items()}, threshold)
        given = {node: secure_node.deal(one, content).config_records["secure"] for node, one in nodes.items()}
        with pytest.raises(DataError, match="asks for shares twice"):
            secure_node.deal(nodes[0], content)
        return {node: dict(zip(map(int, one["nodes"]), one["sealed"], strict=True)) for node, one in given.items()}

    def hide(node: int, sealed: dict[int, bytes]) -> None:
        asked = pack_collected(RecordDict(), Collected("r", sealed, {"weight": 9.0}, 4))
        secure_node.hide(nodes[node], asked, secure_node.Answer([CohortUpdate({"weight": torch.tensor(2.0)})]))

    def unmask(node: int, sent: list[int], silent: list[int]) -> None:
        secure_node.unmask(nodes[node], record(request="r", sent=list(map(str, sent)), silent=list(map(str, silent))))

    for threshold in (2, 5):
        with pytest.raises(DataError, match="is not safe"):
            dealt(threshold)
    shares = dealt()
    with pytest.raises(DataError, match="2 nodes have dealt shares, and 3 must"):
        hide(0, {1: shares[1][0]})
    with pytest.raises(DataError, match="shares of other nodes"):
        unmask(0, [0, 1, 2, 3], [])
    for node in range(3):
        hide(node, {other: shares[other][node] for other in range(4) if other != node})
    with pytest.raises(DataError, match="asks for a masked vector twice"):
        hide(0, {other: shares[other][0] for other in (1, 2, 3)})
    with pytest.raises(DataError, match="or of one node for both"):
        unmask(0, [0, 1, 2, 3], [3])
    with pytest.raises(DataError, match="2 nodes have sent a vector, and 3 must"):
        unmask(0, [0, 1], [2, 3])
    with pytest.raises(DataError, match="this one among them"):
        unmask(0, [1, 2, 3], [0])
    unmask(0, [0, 1, 2], [3])
    with pytest.raises(DataError, match="knows nothing of this request"):
        unmask(0, [0, 1, 3], [2])
    with pytest.raises(DataError, match="knows nothing of this request"):
        secure_node.deal(nodes[1], pack_keys("another", {}, 3))
    own = secure_node.Answer([CohortUpdate({}, {"ann": {"mean": torch.zeros(1)}})])
    with pytest.raises(DataError, match="more than sums"):
        secure_node.hide(nodes[2], record(), own)


@pytest.mark.unit
def test_an_update_that_would_spoil_the_sum_stays_on_its_node(tmp_path: Path, capsys):
    grid = Nodes(tmp_path)

    def huge(update, round_, client_id):
        return type(update)({name: leaf * 1e9 for name, leaf in update.sums.items()}, update.own)

    one = grid.nodes[5]
    grid.nodes[5] = type(one)(one.algorithm, one.holder, one.devices, transform=huge)
    _, lines = train(grid)
    assert lines[0]["dropped"] == ["client-5"]
    assert "is the most, so the update is not sent" in capsys.readouterr().err


@pytest.mark.unit
def test_a_node_that_lies_about_shares_fails_the_round(tmp_path: Path):
    grid = Nodes(tmp_path, until={3: "train"})

    def lie(node: int, kind: str, content: Any) -> None:
        if kind == f"query.{UNMASK}" and node == 0:
            values = content.config_records["secure"]
            values["seeds"] = list(reversed(values["seeds"]))

    grid.changes = lie
    with pytest.raises(
        FedvpaError, match=r"the sum cannot be unmasked: the shares of a seed do not give it\. No update"
    ):
        train(grid)


@pytest.mark.unit
def test_an_answer_of_another_version_is_a_drop_out(tmp_path: Path):
    grid = Nodes(tmp_path)

    def other(node: int, kind: str, content: Any) -> None:
        if node == 2 and kind == f"query.{SHARE}":
            content.config_records["secure"]["nodes"] = ["7"]
        if node == 6 and kind == "train":
            del content["masked"]

    grid.changes = other
    _, lines = train(grid)
    assert lines[0]["dropped"] == ["client-2", "client-6"]


@pytest.mark.unit
def test_drop_outs_of_the_configuration_are_rehearsed_and_a_round_of_too_few_counts_nobody(tmp_path: Path, capsys):
    grid = Nodes(tmp_path)
    got, lines = train(grid, engine=ENGINE.model_copy(update={"dropout": 0.25}), most=2)
    assert [len(line["dropped"]) for line in lines] == [3, 10], "four of ten are too many"
    assert "round 1: nobody is asked: 6 of 10 nodes stay after engine.dropout, and secure aggregation needs 7" in (
        capsys.readouterr().err
    )
    want = replay(make("fedeb", SETTING), FEDERATION, 5, lines[:1])
    for name, leaf in want.params.items():
        torch.testing.assert_close(got.params[name], leaf, rtol=1e-4, atol=2e-6)
    algorithm, run = make("fedeb", SETTING), runner(grid)
    run.plain.hosts = {name: int(name[-1]) % 2 for name in FEDERATION.client_ids}
    _, line = next(rounds(algorithm, FEDERATION, ENGINE, 5, start(algorithm, FEDERATION, 5), run))
    assert len(line["dropped"]) == 10
    assert "its clients are on 2 nodes, and secure aggregation adds up 3 at least" in capsys.readouterr().err


@pytest.mark.unit
def test_several_clients_on_a_node_are_one_vector(tmp_path: Path):
    grid, names = Nodes(tmp_path), FEDERATION.partition.clients
    grid.nodes = {
        node: Node(
            make("fedeb", SETTING),
            Federation(FEDERATION.store, Partition(names[node::4]), FEDERATION.scaling, FEDERATION.weights),
        )
        for node in range(4)
    }
    got, lines = train(grid)
    for name, leaf in replay(make("fedeb", SETTING), FEDERATION, 5, lines).params.items():
        torch.testing.assert_close(got.params[name], leaf, rtol=1e-4, atol=2e-6)
    assert sum(kind == "train" for _, kind, _, _ in grid.said) == 4


@pytest.mark.equivalence
def test_clients_that_train_a_language_model_give_the_same_sum():
    texts = Texts.of("feddpo")
    grid = TextGrid(
        {number: Node(texts.algorithm, texts.share([name])) for number, name in enumerate(texts.clients.client_ids)}
    )
    hosts = {name: number for number, node in grid.nodes.items() for name in node.holder.client_ids}
    plain = GridCohort(grid, hosts, False, 0.0, 1.0, "fp32")
    begin = start(texts.algorithm, texts.clients, 3)
    reached = [
        next(rounds(texts.algorithm, texts.clients, EngineConfig(cohort=3, secure_aggregation=secure), 3, begin, run))[
            0
        ]
        for secure, run in ((False, plain), (True, SecureCohort(plain, 2 / 3)))
    ]
    for name, leaf in reached[0].server.params.items():
        torch.testing.assert_close(reached[1].server.params[name], leaf, rtol=1e-5, atol=1e-6)


@pytest.mark.equivalence
@pytest.mark.parametrize("clip", ["auto", 0.01])
def test_noise_on_a_sum_that_the_server_alone_sees_gives_the_same(clip: str | float, tmp_path: Path):
    setting = config(server={"rounds": 2})  # no numbers: privacy bounds every update
    algorithm, grid = make("fedvpa_gp", setting), Nodes(tmp_path, "fedvpa_gp")
    noise = PrivacyConfig(noise_multiplier=0.3, clip=clip, seeded=True)
    private = Privacy(noise, Terms(0.3, 0.9, 9.0, 10, 2, 0.01), Key.of_seed(1))
    found = [
        list(rounds(algorithm, FEDERATION, engine, 5, start(algorithm, FEDERATION, 5), run, privacy=private))
        for engine, run in ((EngineConfig(name="loop", cohort=9), None), (ENGINE, runner(grid)))
    ]
    for (want, plain), (got, line) in zip(*found, strict=True):
        assert line["privacy"]["clip"] == pytest.approx(plain["privacy"]["clip"], rel=1e-3)
        for name, leaf in want.server.params.items():
            torch.testing.assert_close(got.server.params[name], leaf, rtol=1e-4, atol=1e-5)
    vectors = [one for _, kind, _, one in grid.said if kind == "train"]
    assert len(vectors) > 10
    assert not any("sums" in one.array_records for one in vectors)
