"""Nodes that die, lie, come late or never answer, and a server that is stopped: all in this process."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import make_federation
from fedvpa.algorithms.fedeb import EmpiricalBayes
from fedvpa.algorithms.registry import make
from fedvpa.core.errors import DataError, FedvpaError
from fedvpa.data.partition import Partition
from fedvpa.engines.checkpoint import load_checkpoint, save_checkpoint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.sampling import draw_cohort, identities
from fedvpa.engines.training import rounds, start
from fedvpa.features.standardise import Standardiser
from fedvpa.selector.scaling import Scaling
from tests_shared import replay

pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
from flwr.app import Error, Message

from fedvpa.engines.flower import clocks
from fedvpa.engines.flower.roster import gather
from fedvpa.engines.flower.server import GridCohort
from here_grid import SETTING, HereGrid, share, task

ENGINE = EngineConfig(cohort=4, workers=1)


@pytest.fixture(autouse=True)
def _task():
    with task():
        yield


def cohort(grid: HereGrid, quorum: float = 0.2) -> tuple:
    roster = gather(grid, len(list(grid.get_node_ids())), deadline=1.0)
    scaling = Scaling(Standardiser.from_moments(roster.moments), rms=True)
    return roster, GridCohort(grid, roster.hosts, False, 1.0, quorum, "fp32", scaling, roster.refresh)


def train(grid: HereGrid, state=None, seed: int = 5, after: dict[int, dict] | None = None, method: str = "fedeb"):
    """States and lines of all rounds; ``after`` says what becomes of the grid after so many rounds."""
    roster, run = cohort(grid)
    algorithm = make(method, SETTING)
    state, lines = state or start(algorithm, roster, seed), []
    for reached, line in rounds(algorithm, roster, ENGINE, seed, state, run):
        state = reached
        lines.append(line)
        for name, value in (after or {}).get(state.server.round, {}).items():
            setattr(grid, name, value)
        roster.refresh(set(grid.get_node_ids()))
        yield state, lines


def last(steps):
    *_, (state, lines) = steps
    return state, lines


@pytest.mark.equivalence
@pytest.mark.parametrize("method", ["fedeb", "fedvpa_gp", "finetune"])
def test_nodes_give_what_one_machine_gives(method: str, tmp_path: Path):
    federation, algorithm = make_federation(), make(method, SETTING)
    *_, (want, _) = rounds(algorithm, federation, ENGINE, 5, start(algorithm, federation, 5))
    got, lines = last(train(HereGrid(tmp_path, method=method), method=method))
    assert not any(line["dropped"] or line["rejected"] for line in lines)
    # The nodes' moments add up in another order, and AdamW turns the last bit of a vanishing gradient into a step of
    # the encoder; head and prototypes are trained without such amplification.
    for name in {"scores", "curvature", "head.base", "head.personal", "prototypes"} & want.server.final.keys():
        torch.testing.assert_close(want.server.final[name], got.server.final[name], rtol=1e-4, atol=1e-5)
    if method == "finetune":
        torch.testing.assert_close(want.server.votes, got.server.votes)
    assert not got.private, "private state never reaches the server"


@pytest.mark.unit
@pytest.mark.parametrize("fault", ["silent", "error", "nan"])
def test_the_round_goes_on_without_a_node_that_fails(fault: str, tmp_path: Path, capsys):
    hosted = {client.client_id for client in share(make_federation(), 1).partition.clients}
    state, lines = last(train(HereGrid(tmp_path), after={2: {"faults": {1: fault}}, 4: {"faults": {}}}))
    key = "rejected" if fault == "nan" else "dropped"
    for line in lines:
        failed = sorted(hosted & set(line["cohort"])) if line["round"] in (2, 3) else []
        assert line[key] == failed
    assert any(line[key] for line in lines)
    assert state.server.round == 6
    assert all(torch.isfinite(leaf).all() for leaf in state.server.final.values())
    said = capsys.readouterr().err
    assert {"silent": "no answer within 1 s", "error": "out of memory", "nan": "is not finite"}[fault] in said


@pytest.mark.unit
def test_below_the_quorum_the_run_stops_and_says_why(tmp_path: Path):
    grid = HereGrid(tmp_path)
    roster, run = cohort(grid, quorum=0.9)
    grid.faults = {0: "silent"}
    algorithm = make("fedeb", SETTING)
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
    got, lines = last(train(again, load_checkpoint(path, EmpiricalBayes)[0]))
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


def answers(grid: HereGrid, number: int, content) -> None:
    """From now on a node answers with what ``content`` makes of its reply."""
    plain = grid._push

    def push(message):
        name = plain(message)
        if message.metadata.dst_node_id == number:
            content(grid.replies[name])
        return name

    grid._push = push


@pytest.mark.unit
@pytest.mark.parametrize(
    ("fault", "said"),
    [("error", "out of memory"), ("empty", "none of its 4 users has enough pairs"), ("other", "another version")],
)
def test_the_run_starts_without_a_node_that_cannot_take_part_if_the_quorum_holds(fault, said, tmp_path: Path, capsys):
    def change(reply) -> None:
        if fault == "empty":
            reply.content["facts"]["clients"], reply.content["facts"]["left-out"] = "{}", 4
        elif fault == "other":
            del reply.content["facts"]

    grid = HereGrid(tmp_path, {1: "error"} if fault == "error" else {})
    if fault != "error":
        answers(grid, 1, change)
    roster = gather(grid, 2, deadline=0.0, quorum=0.5)
    assert roster.client_ids == ids(0)
    for _ in range(3):
        roster.refresh({0, 1})
    assert capsys.readouterr().err.count(f"a node does not take part: {said}") == (fault != "other")
    with pytest.raises(FedvpaError, match=rf"1 of 2 nodes introduced themselves within 0 s \(.*{said}.*\)"):
        gather(grid, 2, deadline=0.0, quorum=0.6)


@pytest.mark.unit
def test_a_node_of_other_features_is_left_out_at_the_start_too(tmp_path: Path, capsys):
    grid = HereGrid(tmp_path, {1: "narrow"})
    assert gather(grid, 2, deadline=0.0, quorum=0.5).client_ids == ids(0)
    assert "a node does not take part: its features have 3 dimensions, not 17" in capsys.readouterr().err


@pytest.mark.unit
@pytest.mark.parametrize(
    ("reads", "said"),
    [
        ({"model": "sha256:1", "template": "plain"}, "its language model is another one: model sha256:1, not none"),
        ({"model": "none", "template": "chat"}, "template = 'chat', and those of the others 'plain': export the app"),
    ],
)
def test_a_node_whose_features_mean_something_else_does_not_take_part(reads: dict, said: str, tmp_path: Path, capsys):
    """At the start, where most decide, and when it joins later."""
    grid = HereGrid(tmp_path)
    whole = grid.nodes[0].holder
    grid.nodes[1] = replace(grid.nodes[1], reads=json.dumps(reads))
    for number, rows in ((0, slice(1)), (2, slice(1, None))):
        part = replace(whole, partition=Partition(whole.partition.clients[rows]))
        grid.nodes[number] = replace(grid.nodes[0], holder=part)
    roster = gather(grid, 3, deadline=0.0, quorum=0.5)
    assert (roster.client_ids, json.loads(roster.reads)["template"]) == (ids(0), "plain")
    assert said in capsys.readouterr().err
    late = HereGrid(tmp_path, gone={1})
    late.nodes[1] = replace(late.nodes[1], reads=json.dumps(reads))
    roster, _ = cohort(late)
    capsys.readouterr()
    late.gone = set()
    for _ in range(3):
        roster.refresh({0, 1})
    assert roster.client_ids == ids(0)
    assert capsys.readouterr().err.count(said) == 1


@pytest.mark.unit
def test_users_that_nodes_leave_out_are_counted_and_not_named(tmp_path: Path, capsys):
    grid = HereGrid(tmp_path)
    grid.nodes[1] = replace(grid.nodes[1], left_out=("anna", "bert"))
    assert gather(grid, 2, deadline=0.0).left_out == 2
    joined = HereGrid(tmp_path, gone={1})
    joined.nodes[1] = grid.nodes[1]
    roster, _ = cohort(joined)
    capsys.readouterr()
    joined.gone = set()
    for _ in range(2):
        roster.refresh({0, 1})
    assert roster.left_out == 2
    assert "a node that joined leaves out 2 users" in capsys.readouterr().err


@pytest.mark.unit
def test_an_answer_that_cannot_be_read_is_dropped_and_the_round_goes_on(tmp_path: Path, capsys):
    grid = HereGrid(tmp_path)
    roster, run = cohort(grid)
    answers(grid, 1, lambda reply: reply.content.pop("parts"))
    algorithm = make("fedeb", SETTING)
    engine = EngineConfig(cohort=6, workers=1)
    _, line = next(rounds(algorithm, roster, engine, 5, start(algorithm, roster, 5), run))
    assert line["dropped"] == sorted(ids(1))
    assert "(an answer that cannot be read: it may run another version of fedvpa)" in capsys.readouterr().err


@pytest.mark.unit
@pytest.mark.parametrize(("ahead", "said"), [(4.0, "4 s ahead"), (-200.0, "200 s behind"), (0.5, None), (-0.5, None)])
def test_a_clock_that_is_off_is_told_before_flower_refuses_it(ahead: float, said: str | None, tmp_path: Path, capsys):
    def shift(reply) -> None:
        reply.metadata.__dict__["_created_at"] = reply.metadata.created_at + ahead

    grid = HereGrid(tmp_path)
    answers(grid, 1, shift)
    gather(grid, 2, deadline=0.0)
    noted = [line for line in capsys.readouterr().err.splitlines() if "the clock of node 1 is" in line]
    assert len(noted) == (said is not None)
    if said is not None:
        assert f"{said} of the server's. Flower refuses a node whose clock is more than 5 s ahead or 305 s" in noted[0]


@pytest.mark.reference
def test_the_bounds_of_clocks_are_flowers_own():
    from flwr.common import constant

    assert clocks.AHEAD_SECONDS == constant.SYSTEM_TIME_TOLERANCE
    assert clocks.BEHIND_SECONDS == constant.TIMESTAMP_TOLERANCE + constant.SYSTEM_TIME_TOLERANCE
    assert clocks.clock_ahead(100.0, 101.0, 102.0) == 0.0, "between request and reply nothing is known"
    assert clocks.clock_ahead(100.0, 108.0, 102.0) == 6.0
    assert clocks.clock_ahead(100.0, 93.0, 102.0) == -7.0


@pytest.mark.unit
def test_what_a_node_says_is_given_without_the_class_that_flower_puts_before_it(tmp_path: Path):
    with pytest.raises(FedvpaError, match=r"within 0 s \(the node cannot go on \(KeyError\); its own log says why\)"):
        gather(Says(tmp_path), 2, deadline=0.0)


class Says(HereGrid):
    """A grid whose nodes fail as Flower reports it."""

    def _push(self, message):
        name = super()._push(message)
        told = "the node cannot go on (KeyError); its own log says why"
        reason = f"<class 'fedvpa.engines.flower.client.NodeError'>:<'{told}'>"
        self.replies[name] = Message(Error(2, reason), reply_to=message)
        return name


def ids(number: int | None = None) -> tuple[str, ...]:
    """The clients of a node, or all."""
    return (make_federation() if number is None else share(make_federation(), number)).client_ids


@pytest.mark.equivalence
def test_a_node_that_joins_late_takes_part_once_it_has_said_whom_it_hosts(tmp_path: Path, capsys):
    grid = HereGrid(tmp_path, gone={1}, method="fedvpa_gp")
    state, lines = last(train(grid, after={2: {"gone": set()}}, method="fedvpa_gp"))
    # It comes after round 1, is asked at once, answers during round 2, and can be drawn from round 3 on.
    for round_, line in enumerate(lines):
        there = ids() if round_ >= 3 else ids(0)
        assert line["cohort"] == draw_cohort(there, identities(there), ENGINE.cohort_of(len(there)), 5, round_)
        assert not line["dropped"]
    assert set(ids(1)) & {name for line in lines for name in line["cohort"]}
    assert capsys.readouterr().err.count("joined: client-1, client-3, client-5") == 1
    federation = make_federation()
    scaling = replace(federation.scaling, standardiser=Standardiser.from_moments(share(federation, 0).moments))
    want = replay(make("fedvpa_gp", SETTING), replace(federation, scaling=scaling), 5, lines)
    for name in ("head.base", "head.personal", "prototypes"):
        torch.testing.assert_close(want.final[name], state.server.final[name], rtol=1e-4, atol=1e-5)


@pytest.mark.unit
def test_nobody_waits_for_a_node_that_is_gone_and_it_goes_on_when_it_is_back(tmp_path: Path, capsys):
    grid = HereGrid(tmp_path)
    grid.leave_after = 6  # two introductions, two requests in each of two rounds: it dies with the third in hand
    _, lines = last(train(grid, after={4: {"gone": set(), "leave_after": None}}))
    for line in lines:
        assert line["cohort"] == draw_cohort(ids(), identities(ids()), 4, 5, line["round"]), "gone is not left"
        assert line["dropped"] == (sorted(set(ids(1)) & set(line["cohort"])) if line["round"] in (2, 3) else [])
    assert any(line["dropped"] for line in lines)
    said = capsys.readouterr().err
    assert said.count("(the node is gone)") == 2
    assert "no answer" not in said, "in neither round the server waits for the deadline"


@pytest.mark.unit
@pytest.mark.parametrize(("fault", "said"), [("error", "out of memory"), ("narrow", "3 dimensions, not 17")])
def test_a_late_node_that_errs_is_left_out_until_it_comes_again(fault: str, said: str, tmp_path: Path, capsys):
    grid = HereGrid(tmp_path, {1: fault}, gone={1})
    roster, _ = cohort(grid)
    grid.gone = set()
    for _ in range(4):
        roster.refresh(set(grid.get_node_ids()))
    assert capsys.readouterr().err.count(said) == 1, "asked once"
    assert roster.client_ids == ids(0)
    grid.gone, grid.faults = {1}, {}
    roster.refresh(set(grid.get_node_ids()))
    grid.gone = set()
    for _ in range(2):
        roster.refresh(set(grid.get_node_ids()))
    assert roster.client_ids == ids()


@pytest.mark.unit
def test_of_two_nodes_with_the_same_client_the_first_keeps_it_while_it_is_there(tmp_path: Path, capsys):
    grid = HereGrid(tmp_path, gone={1})
    roster, _ = cohort(grid)
    grid.nodes[7], grid.gone = grid.nodes[0], {1}
    for _ in range(3):
        roster.refresh(set(grid.get_node_ids()))
    assert set(roster.hosts.values()) == {0}
    assert capsys.readouterr().err.count("which keeps them: client-0, client-2, client-4") == 1
    grid.gone = {0, 1}
    roster.refresh(set(grid.get_node_ids()))
    assert set(roster.hosts.values()) == {7}
    assert roster.client_ids == ids(0)
