"""Clients lie about their updates in every way we know, on every engine: they are named, and everybody else counts."""

from collections.abc import Callable, Collection
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import SIZES, make_federation
from fedvpa.algorithms.base import ClientUpdate
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server import limits
from fedvpa.core.frozen import to_tensors
from fedvpa.core.tree import Tree
from fedvpa.data.partition import Partition
from fedvpa.engines import loop, vectorised
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.federation import Federation
from fedvpa.engines.runner import CohortResult, CohortRunner, CohortTask
from fedvpa.engines.training import TrainState, rounds, start
from tests_shared import config

BASE = "delta.head.base"
NAN, INF = float("nan"), float("inf")


def sums(**changed: Any) -> Callable[[ClientUpdate], ClientUpdate]:
    """Replace tensors of the sums, or drop them with None."""

    def lie(update: ClientUpdate) -> ClientUpdate:
        new = {name: value(update.sums) if callable(value) else value for name, value in changed.items()}
        both = update.sums | {name: torch.as_tensor(leaf) for name, leaf in new.items() if leaf is not None}
        return replace(update, sums={name: leaf for name, leaf in both.items() if new.get(name, leaf) is not None})

    return lie


def own(change: Callable[[Tree], Tree]) -> Callable[[ClientUpdate], ClientUpdate]:
    """Change what is not additive."""
    return lambda update: replace(update, own=change(update.own))


def times(factor: float) -> Callable[[ClientUpdate], ClientUpdate]:
    """Multiply the change."""
    return lambda update: replace(
        update, sums={name: leaf * factor if name.startswith("delta.") else leaf for name, leaf in update.sums.items()}
    )


LIES: dict[str, tuple[Callable[[ClientUpdate], ClientUpdate], str]] = {
    "no weight, and a change of 1e6": (sums(weight=0.0, **{BASE: lambda s: s[BASE] * 0 + 1e6}), "its weight is 0"),
    "a weight of 1e9": (lambda update: times(1e9)(sums(weight=1e9)(update)), "its weight is 1e+09"),
    "a negative weight": (sums(weight=-8.0), "its weight is -8"),
    "no number as weight": (sums(weight=NAN), "weight is not finite"),
    "an infinite weight": (sums(weight=INF), "weight is not finite"),
    "a missing change": (sums(**{BASE: None}), f"{BASE} is missing"),
    "no change at all": (lambda u: sums(**dict.fromkeys(n for n in u.sums if n.startswith("delta.")))(u), "is missing"),
    "one more name": (sums(**{"delta.head.more": torch.ones(3)}), "delta.head.more is not wanted"),
    "another shape": (sums(**{BASE: lambda s: s[BASE][:-1]}), f"{BASE} has shape"),
    "another type": (sums(**{BASE: lambda s: s[BASE].double()}), f"{BASE} is float64"),
    "a posterior of another length": (own(lambda t: t | {"mean": torch.zeros(99)}), "own mean has shape (99,)"),
    "a huge posterior": (own(lambda t: t | {"mean": t["mean"] + 1e9}), "own mean has 1e+09"),
    "no posterior": (own(lambda t: {}), "clients' own"),
    "infinite evidence": (sums(spread=INF), "spread is not finite"),
    "absurd evidence": (sums(spread=1e30), "spread has 1e+30"),
    "a responsibility above 1": (sums(responsibility=lambda s: s["responsibility"] + 1), "responsibility has"),
    "an absurd loss": (sums(**{"loss.reconstruction": -1e12}), "loss.reconstruction has -1e+12"),
    "a change of 1e6 times its length": (times(1e6), "is absurd already"),
    "the opposite": (times(-1.0), ""),
}


NAMES = {f"client-{number}": case for number, case in enumerate(LIES, start=len(SIZES))}
"""The liars and their lies; the clients before them are honest."""

REJECTED = sorted(client for client, case in NAMES.items() if LIES[case][1])


@dataclass(frozen=True)
class Found:
    """What two rounds with all liars came to, and what was said."""

    state: TrainState
    lines: list[dict[str, Any]]
    said: str


def lies(update: ClientUpdate, round_: int, client: str) -> ClientUpdate:
    """What leaves a client."""
    return LIES[NAMES[client]][0](update) if client in NAMES else update


def flower(folder: Path, algorithm: Any, federation: Federation) -> CohortRunner:
    """A node for each client, in this process."""
    from fedvpa.engines.flower.client import Node
    from fedvpa.engines.flower.devices import OnDisk
    from fedvpa.engines.flower.server import GridCohort
    from here_grid import HereGrid

    grid, nodes = HereGrid(folder), {}
    for number, client in enumerate(federation.partition.clients):
        here = replace(federation, partition=Partition((client,)))
        nodes[number] = Node(algorithm, here, OnDisk(folder / f"of-{number}"), transform=lies)
    grid.nodes = nodes
    hosts = {client.client_id: number for number, client in enumerate(federation.partition.clients)}
    return GridCohort(grid, hosts, False, 5.0, 1.0, "fp32")


def train(engine: str, folder: Path, silent: Collection[str] = ()) -> tuple[TrainState, list[dict[str, Any]]]:
    """Two rounds that ask everybody: in the first one limits are found, in the second they are announced."""
    rules = config(server={"rounds": 2, "average_tail": 0.0}, variational={"warmup": 0.0, "prior": "posteriors"})
    algorithm, federation = make("fedvpa_gp", rules), make_federation((*SIZES, *[5] * len(LIES)))
    runner: CohortRunner = loop.run_cohort if engine == "loop" else vectorised.run_cohort
    if engine == "flower":
        runner = flower(folder, algorithm, federation)

    def heard(task: CohortTask) -> CohortResult:
        return runner(replace(task, reporting=[name for name in task.reporting if name not in silent]))

    everybody = EngineConfig(cohort=len(federation.client_ids))
    state = start(algorithm, federation, 5)
    steps = list(rounds(algorithm, federation, everybody, 5, state, heard, lies))
    return steps[-1][0], [line for _, line in steps]


@pytest.fixture(scope="module", params=["loop", "vectorised", "flower"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    stamped = nullcontext
    if request.param == "flower":
        pytest.importorskip("flwr", reason="fedvpa[flower] is not installed")
        from here_grid import task as stamped
    folder, said = tmp_path_factory.mktemp("nodes"), StringIO()
    with pytest.MonkeyPatch.context() as patch, stamped():
        patch.setattr(limits, "MEASURED", 4)
        with redirect_stderr(said):
            state, lines = train(request.param, folder)
    return Found(state, lines, said.getvalue())


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> TrainState:
    """The same if those that are rejected do not answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "MEASURED", 4)
        return train("vectorised", tmp_path_factory.mktemp("nodes"), silent=REJECTED)[0]


@pytest.mark.unit
@pytest.mark.parametrize("case", LIES)
def test_a_liar_is_named_in_every_round(case: str, found: Found):
    client = next(name for name, lie in NAMES.items() if lie == case)
    reason = LIES[case][1]
    assert [client in line["rejected"] for line in found.lines] == [bool(reason)] * 2
    for round_ in (0, 1):
        said = [line for line in found.said.splitlines() if f"round {round_}: the update of client {client!r}" in line]
        assert len(said) == bool(reason)
        assert all(reason in line for line in said)


@pytest.mark.equivalence
def test_everybody_else_counts(found: Found, without: TrainState):
    assert [line["dropped"] for line in found.lines] == [[], []]
    assert [line["rejected"] for line in found.lines] == [REJECTED] * 2
    assert found.state.guard.typical_norm is not None
    left, right = ({**to_tensors(state.server), **to_tensors(state.guard)} for state in (found.state, without))
    assert left.keys() == right.keys()
    for name, leaf in left.items():
        torch.testing.assert_close(leaf, right[name], rtol=1e-4, atol=1e-5, equal_nan=True)
    assert all(torch.isfinite(leaf).all() for leaf in found.state.server.params.values())
