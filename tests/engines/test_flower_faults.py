"""Nodes that die, lie or never answer, and a server that is stopped: server against nodes, all in this process."""

from pathlib import Path

import pytest
import torch

from conftest import make_federation
from fedvpa.algorithms import make
from fedvpa.core.errors import DataError, FedvpaError
from fedvpa.data import Partition
from fedvpa.engines.checkpoint import load_checkpoint, save_checkpoint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.federation import Federation
from fedvpa.engines.training import rounds, start
from tests_shared import config

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedvpa.engines.flower.client import Node, client_app
from fedvpa.engines.flower.devices import OnDisk
from fedvpa.engines.flower.server import GridCohort, gather
from fedvpa.features import Standardiser

SETTING = config(server={"rounds": 6})
ENGINE = EngineConfig(cohort=4, workers=1)


@pytest.fixture(autouse=True)
def _task(monkeypatch):
    """Flower stamps messages with the task that it runs in."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def share(federation: Federation, number: int) -> Federation:
    """The clients of one of two nodes."""
    clients = tuple(client for row, client in enumerate(federation.partition.clients) if row % 2 == number)
    return Federation(federation.store, Partition(clients), federation.scaling, federation.weights)


class HereGrid(Grid):
    """A grid whose two nodes run in this process."""

    def __init__(self, folder: Path, faults: dict[int, str] | None = None) -> None:
        whole = make_federation()
        self.faults, self.rounds = faults or {}, 0
        self.nodes = {
            number: Node(make("fedvpa_gp", SETTING), share(whole, number), OnDisk(folder / str(number)))
            for number in (0, 1)
        }
        self.contexts = {
            number: Context(
                run_id=1, node_id=number, node_config=UserConfig(), state=RecordDict(), run_config=UserConfig()
            )
            for number in (0, 1)
        }

    def get_node_ids(self):
        return list(self.nodes)

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = f"{self.rounds}-{node}"
            fault = self.faults.get(node)
            if fault == "silent":
                continue
            if fault == "error":
                replies.append(Message(Error(2, "out of memory"), reply_to=message))
                continue
            reply = client_app(lambda _, node=node: self.nodes[node])(message, self.contexts[node])
            if fault == "nan" and "sums" in reply.content:
                sums = dict(reply.content["sums"].to_torch_state_dict())
                reply.content["sums"] = type(reply.content["sums"])(
                    {name: leaf * torch.nan for name, leaf in sums.items()}
                )
            replies.append(reply)
        self.rounds += 1
        return replies

    def set_run(self, run):
        raise NotImplementedError

    run = create_message = push_messages = pull_messages = property(lambda self: None)


def cohort(grid: HereGrid, quorum: float = 0.2) -> tuple:
    roster = gather(grid, 2, deadline=1.0)
    return roster, GridCohort(grid, roster.hosts, False, 1.0, quorum, "fp32", Standardiser.from_moments(roster.moments))


def train(grid: HereGrid, state=None, seed: int = 5, **faults: dict[int, dict[int, str]]):
    roster, run = cohort(grid)
    algorithm = make("fedvpa_gp", SETTING)
    state, lines = state or start(algorithm, roster, seed), []
    for reached, line in rounds(algorithm, roster, ENGINE, seed, state, run):
        state = reached
        lines.append(line)
        grid.faults = faults.get("after", {}).get(state.server.round, grid.faults)
        yield state, lines


def last(steps):
    *_, (state, lines) = steps
    return state, lines


@pytest.mark.equivalence
def test_nodes_give_what_one_machine_gives(tmp_path: Path):
    federation, algorithm = make_federation(), make("fedvpa_gp", SETTING)
    *_, (want, _) = rounds(algorithm, federation, ENGINE, 5, start(algorithm, federation, 5))
    got, lines = last(train(HereGrid(tmp_path)))
    assert not any(line["dropped"] or line["rejected"] for line in lines)
    # The nodes' moments add up in another order, and AdamW turns the last bit of a vanishing gradient into a step of
    # the encoder; head and prototypes are trained without such amplification.
    for name in ("head.base", "head.personal", "prototypes"):
        torch.testing.assert_close(want.server.final[name], got.server.final[name], rtol=1e-4, atol=1e-5)
    assert not got.private, "private state never reaches the server"


@pytest.mark.unit
@pytest.mark.parametrize("fault", ["silent", "error", "nan"])
def test_the_round_goes_on_without_a_node_that_fails(fault: str, tmp_path: Path, capsys):
    hosted = {client.client_id for client in share(make_federation(), 1).partition.clients}
    state, lines = last(train(HereGrid(tmp_path), after={2: {1: fault}, 4: {}}))
    key = "rejected" if fault == "nan" else "dropped"
    for line in lines:
        failed = sorted(hosted & set(line["cohort"])) if line["round"] in (2, 3) else []
        assert line[key] == failed
    assert any(line[key] for line in lines)
    assert state.server.round == 6
    assert all(torch.isfinite(leaf).all() for leaf in state.server.final.values())
    said = capsys.readouterr().err
    assert {"silent": "no answer within 1 s", "error": "out of memory", "nan": "it is not finite"}[fault] in said


@pytest.mark.unit
def test_below_the_quorum_the_run_stops_and_says_why(tmp_path: Path):
    grid = HereGrid(tmp_path)
    roster, run = cohort(grid, quorum=0.9)
    grid.faults = {0: "silent"}
    algorithm = make("fedvpa_gp", SETTING)
    with pytest.raises(FedvpaError, match=r"of \d clients answered, and the quorum is 90%.*no answer within 1 s"):
        list(rounds(algorithm, roster, EngineConfig(cohort=6), 5, start(algorithm, roster, 5), run))


@pytest.mark.equivalence
@pytest.mark.parametrize("lost", [0, 1])
def test_a_server_that_is_killed_and_resumed_ends_where_it_would_have(lost: int, tmp_path: Path):
    """Also if nodes had already done a round that the last checkpoint does not know of."""
    want, _ = last(train(HereGrid(tmp_path / "whole")))
    path, grid = tmp_path / "last.safetensors", HereGrid(tmp_path / "nodes")
    for state, _ in train(grid):
        if state.server.round == 3 - lost:
            save_checkpoint(path, state, {})
        if state.server.round == 3:
            break
    again = HereGrid(tmp_path / "nodes")
    got, lines = last(train(again, load_checkpoint(path)[0]))
    assert len(lines) == 3 + lost
    for name, leaf in want.server.final.items():
        assert torch.equal(leaf, got.server.final[name]), name


@pytest.mark.unit
def test_too_few_nodes_and_a_client_on_two_nodes_are_refused(tmp_path: Path):
    with pytest.raises(FedvpaError, match="2 of 3 nodes introduced themselves"):
        gather(HereGrid(tmp_path), 3, deadline=0.0)
    with pytest.raises(FedvpaError, match=r"1 of 2 nodes introduced themselves.*out of memory"):
        gather(HereGrid(tmp_path, {1: "error"}), 2, deadline=0.0)
    twice = HereGrid(tmp_path)
    twice.nodes[1] = twice.nodes[0]
    with pytest.raises(DataError, match="Two nodes host the client 'client-0'"):
        gather(twice, 2, deadline=0.0)
