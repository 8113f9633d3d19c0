"""Rounds whose noise comes from the nodes: the server has no sum without it, and what it states is what holds."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server.validation import Expected
from fedvpa.core.errors import ConfigError, FedvpaError
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.noise_shares import NoiseShares
from fedvpa.engines.private import Privacy, Terms
from fedvpa.engines.training import rounds, start
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.privacy.discreteness import counted
from fedvpa.privacy.keyed import Key
from fedvpa.privacy.unmasked import Unmasked
from fedvpa.runs.noise import said, summary
from tests_shared import config

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from fedvpa.engines.flower import secure_node
from fedvpa.engines.flower.secure_records import UNMASK, unpack_collected
from fedvpa.privacy.quantised import Words
from here_grid import task
from secure_nodes import FEDERATION, Nodes, runner

SETTING = config(server={"rounds": 2})
ENGINE = EngineConfig(cohort=10, workers=1, secure_aggregation=True)
NOISE = PrivacyConfig(noise_multiplier=0.5, noise="clients", seeded=True)
TERMS = Terms(0.5, 0.9, 9.0, 10, 2, 0.01)


@pytest.fixture(autouse=True)
def _task():
    with task():
        yield


def train(grid: Nodes, privacy: Privacy, most: int = 1, engine: EngineConfig = ENGINE) -> list[Any]:
    """Server's states and lines of the first rounds."""
    algorithm = make("fedem", SETTING)
    state = start(algorithm, FEDERATION, 5)
    return list(islice(rounds(algorithm, FEDERATION, engine, 5, state, runner(grid), privacy=privacy), most))


def privacy(path: Path | None = None, **changes: Any) -> Privacy:
    noise = NOISE.model_copy(update=changes)
    return Privacy(noise, TERMS, Key.of_seed(1), unmasked=Unmasked(path))


@pytest.mark.equivalence
def test_the_server_reads_the_sum_and_the_noise_of_the_nodes_exactly(tmp_path: Path, monkeypatch):
    """What it unmasks, in integers, against what the nodes made before they masked it; two fall silent."""
    sent, read = dict[int, Words](), list[Words]()
    hide, restore = secure_node._words, __import__("fedvpa.engines.flower.secure_server", fromlist=["x"])

    def words(asked, answer, threshold):
        sent[asked.place] = hide(asked, answer, threshold)
        return sent[asked.place]

    plain = restore.restored

    def restored(layout, total):
        read.append(total)
        return plain(layout, total)

    monkeypatch.setattr(secure_node, "_words", words)
    monkeypatch.setattr(restore, "restored", restored)
    grid = Nodes(tmp_path, "fedem", until={2: "train", 6: f"query.{UNMASK}"})
    algorithm = make("fedem", SETTING)
    begin = start(algorithm, FEDERATION, 5)
    next(rounds(algorithm, FEDERATION, ENGINE, 5, begin, runner(grid), privacy=privacy()))
    total = next(iter(sent.values()))
    total = sum((one.narrow.astype(np.int64) for one in sent.values()), np.zeros(len(total.narrow), np.int64))
    assert len(sent) == len({node for node, kind, *_ in grid.said if kind == "train"}) >= 7
    np.testing.assert_array_equal(read[0].narrow, total.astype(np.uint32))
    # And this is the clients' integers with the noise of the seed.
    node, _, request, _ = next(one for one in grid.said if one[1] == "train")
    asked = unpack_collected(request)
    assert asked.shares is not None
    threshold = 7
    draw = Key.of_seed(5).generator(0, f"node {node}").bytes
    noise = asked.shares.noised([], {}, threshold, draw).narrow.view(np.int32).astype(np.int64)
    clients = sent[node].narrow.view(np.int32).astype(np.int64) - noise
    limit = counted(asked.shares.deviation) / 0.5
    assert 0.1 * limit < math.sqrt(int(clients @ clients)) <= limit, "one client, no longer than the noise hides"
    assert "weight" not in asked.shares.steps, "who has no pairs is not told"


@pytest.mark.equivalence
def test_a_seeded_simulation_repeats_and_learns_what_the_server_s_noise_lets_it(tmp_path: Path):
    """Without noise to speak of it is the training of the loop; the server's noise takes its place otherwise."""
    small = PrivacyConfig(noise_multiplier=1e-4, seeded=True, clip=0.01)
    terms = replace(TERMS, noise_multiplier=1e-4)
    algorithm = make("fedem", SETTING)
    plain = Privacy(small, terms, Key.of_seed(1))
    want, _ = next(
        rounds(
            algorithm,
            FEDERATION,
            EngineConfig(name="loop", cohort=9),
            5,
            start(algorithm, FEDERATION, 5),
            privacy=plain,
        )
    )
    noisy = Privacy(small.model_copy(update={"noise": "clients"}), terms, Key.of_seed(1))
    grid = Nodes(tmp_path / "a", "fedem")
    got = train(grid, noisy)[-1][0]
    for name, leaf in want.server.params.items():
        torch.testing.assert_close(got.server.params[name], leaf, rtol=1e-3, atol=2e-5)
    again = train(Nodes(tmp_path / "b", "fedem"), noisy)[-1][0]
    for name, leaf in got.server.params.items():
        assert torch.equal(again.server.params[name], leaf)
    unseeded = Privacy(noisy.config.model_copy(update={"seeded": False}), terms, Key.of_seed(1))
    other = train(Nodes(tmp_path / "c", "fedem"), unseeded)[-1][0]
    assert not all(torch.equal(other.server.params[name], leaf) for name, leaf in got.server.params.items())


@pytest.mark.reference
@pytest.mark.parametrize("stayed", [0, 7, 10])
def test_all_noise_of_a_release_is_always_as_large_and_no_less_than_the_multiplier_s(stayed: int):
    """What the server adds to nodes' noise of any variance, within 5 standard errors."""
    size, clip = 40_000, 0.7
    release = privacy(clip=clip).next(None, Expected({"w": (size,)}))
    shares = NoiseShares(release, 2 / 3, 10, 10)
    step, one = shares.shares.steps["delta.w"], shares.shares.node_deviation(7)
    nodes = np.random.default_rng(0).normal(size=size) * math.sqrt(stayed) * one * step
    update = CohortUpdate({"delta.w": torch.from_numpy(nodes).float()} if stayed else {})
    found, ledger = shares.noised(update, stayed * one**2, 3)
    deviation = float(found.sums["delta.w"].std())
    wanted = 0.5 * clip * shares.sizes.times
    assert abs(deviation / wanted - 1) < 5 / math.sqrt(2 * size)
    assert shares.sizes.times == pytest.approx(math.sqrt(7 / 4), rel=1e-3)
    assert (float(found.sums["weight"]), ledger.releases) == (9.0, 1)


@pytest.mark.unit
def test_a_round_of_few_clients_is_filled_up_with_nodes_that_send_noise_alone(tmp_path: Path, monkeypatch):
    grid = Nodes(tmp_path, "fedem")
    key = next(key for key in map(Key.of_seed, range(99)) if (key.uniform(0, FEDERATION.client_ids) < 0.2).sum() == 1)
    few = Privacy(NOISE, replace(TERMS, rate=0.2, cohort=8.0), key)
    state, line = train(grid, few)[0]
    asked = [request for _, kind, request, _ in grid.said if kind == "train" and request["task"]["round"] == 0]
    assert sorted(len(str(one["task"]["clients"])) > 2 for one in asked) == [False] * 3 + [True]
    assert len({len(reply["masked"]) for _, kind, _, reply in grid.said if kind == "train"}) == 1
    assert line["dropped"] == []
    assert state.ledger.releases == 1
    here = next(
        node for node, kind, request, _ in grid.said if kind == "train" and "client" in request["task"]["clients"]
    )
    grid.gone = set(range(10)) - {here, (here + 1) % 10, (here + 2) % 10}
    with pytest.raises(FedvpaError, match=r"too few nodes are online to add noise: there must be 4"):
        train(grid, few)
    with pytest.raises(FedvpaError, match=r"users are on more nodes than the 5 that were there"):
        train(grid, replace(privacy(), nodes=5))


@pytest.mark.unit
def test_an_update_that_is_not_finite_is_noise_alone_and_nobody_sees_it(tmp_path: Path, capsys):
    grid = Nodes(tmp_path, "fedem")
    first = FEDERATION.client_ids.index(privacy().cohort(0, FEDERATION.client_ids)[0])
    broken = grid.nodes[first]
    grid.nodes[first] = replace(
        broken, transform=lambda update, *_: replace(update, sums={k: v * math.nan for k, v in update.sums.items()})
    )
    (state, line), *_ = train(grid, privacy())
    assert line["dropped"] == line["rejected"] == []
    assert all(leaf.isfinite().all() for leaf in state.server.params.values())
    assert "only noise is sent for it" in capsys.readouterr().err


@pytest.mark.unit
def test_a_round_that_is_unmasked_again_is_counted_again_and_one_that_was_not_is_none(tmp_path: Path):
    path = tmp_path / "checkpoints" / "unmasked.txt"
    mechanism = privacy(path, seeded=False)
    train(Nodes(tmp_path / "a", "fedem"), mechanism, most=2)
    assert path.read_text().split() == ["0", "1"]
    silent = Nodes(tmp_path / "b", "fedem", until=dict.fromkeys(range(4), "train"))
    with pytest.raises(FedvpaError, match="too few nodes sent a vector"):
        train(silent, mechanism)
    assert path.read_text().split() == ["0", "1"], "masked integers are no release"
    lost = Nodes(tmp_path / "c", "fedem", until=dict.fromkeys(range(4), f"query.{UNMASK}"))
    with pytest.raises(FedvpaError, match="too few nodes gave shares"):
        train(lost, mechanism)
    assert path.read_text().split() == ["0", "1", "0"], "written down before the server can read it"
    path.write_text("0\n1\n0\n1")  # cut off while it was written
    mechanism.unmasked.note(11)
    assert mechanism.unmasked.times(3) == [2, 2, 1]
    assert Unmasked().times(3) == [1, 1, 1]


@pytest.mark.unit
def test_what_is_stated_is_what_the_plain_mechanism_states_and_repeated_rounds_cost_more(tmp_path: Path):
    pytest.importorskip("dp_accounting", reason="fedvpa[privacy] is not installed")
    ids = FEDERATION.client_ids
    ledger = replace(privacy().start(Expected({"w": (3,)})), releases=2)
    plain = summary(privacy(noise="server"), ledger, ids)
    found = summary(privacy(), ledger, ids)
    for name in ("epsilon_released", "epsilon_server", "noise_multiplier", "delta"):
        assert found[name] == plain[name], "the difference of integers from real numbers is below rounding"
    assert (found["noise"], found["unmasked"], found["honest_share"]) == ("clients", 2, 1.0)
    assert "neither for the machine" in said(plain)
    assert "the server, which sees who took part and has no sum without noise of the nodes" in said(found)
    path = tmp_path / "unmasked.txt"
    path.write_text("0\n1\n1\n")
    again = summary(privacy(path, seeded=False), ledger, ids)
    assert again["unmasked"] == 3
    assert again["epsilon_released"] > found["epsilon_released"]
    assert again["epsilon_server"] > found["epsilon_server"]
    assert "1 of the sums belong to rounds that were run again, and are counted" in said(again)


@pytest.mark.unit
def test_noise_of_nodes_needs_secure_aggregation_and_a_node_of_such_a_run_asks_for_it(tmp_path: Path):
    with pytest.raises(ConfigError, match="one node's share does not hide its update"):
        train(Nodes(tmp_path, "fedem"), privacy(), engine=EngineConfig(cohort=9))
    grid = Nodes(tmp_path, "fedem")
    grid.nodes = {number: replace(node, adds_noise=True) for number, node in grid.nodes.items()}
    for mechanism in (privacy(noise="server"), privacy()):
        with pytest.raises(FedvpaError, match=r"asks for sums without the noise of nodes"):
            train(grid, mechanism)
    train(grid, privacy(seeded=False))
