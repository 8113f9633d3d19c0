"""An update is what the algorithm expects, to the name and the number, or the reason says what it is not."""

import pytest
import torch

from fedvpa.algorithms.server.validation import Bounds, Expected, lighter, problem
from fedvpa.core.tree import Tree

EXPECTED = Expected(
    {"w": (3,), "b": ()},
    {
        "loss.total": Bounds((), 0.0, 5.0, per="weight"),
        "clients": Bounds((), 0.0, 1.0),
        "share": Bounds((2,), 0.0, 1.0),
    },
    {"mean": Bounds((4,), -10.0, 10.0)},
)
INF, NAN = float("inf"), float("nan")


def sums(weight: float = 7.0, **changed: object) -> Tree:
    usual = {
        "weight": torch.tensor(weight),
        "delta.w": torch.tensor([1.0, -2.0, 3.0]),
        "delta.b": torch.tensor(0.5),
        "loss.total": torch.tensor(5.0 * weight),
        "clients": torch.tensor(1.0),
        "share": torch.tensor([0.25, 0.75]),
    }
    return {name: torch.as_tensor(leaf) for name, leaf in (usual | changed).items() if leaf is not None}


def own(*clients: str, **changed: object) -> dict[str, Tree]:
    tensors = {name: torch.as_tensor(leaf) for name, leaf in ({"mean": torch.ones(4)} | changed).items()}
    return {client: tensors for client in clients}


@pytest.mark.unit
def test_what_is_expected_has_no_problem():
    assert problem(sums(), own("a"), EXPECTED, ("a",), 7.0) is None
    two = sums(14.0, clients=2.0, share=[1.0, 1.0])
    assert problem(two, own("a", "b"), EXPECTED, ("a", "b"), 7.0) is None
    nobody = {name: torch.zeros_like(leaf) for name, leaf in sums().items()}
    assert problem(nobody, own("a"), EXPECTED, ("a",), 7.0) is None
    assert problem({"weight": torch.zeros(())}, {}, Expected({}), ("a",), 7.0) is None


@pytest.mark.unit
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (sums(**{"delta.w": None}), "delta.w is missing"),
        ({}, "weight is missing"),
        (sums(**{"delta.x": 1.0}), "delta.x is not wanted"),
        (sums(**{"delta.w": [1.0, 2.0]}), "delta.w has shape (2,) instead of (3,)"),
        (sums(**{"delta.w": torch.ones(3, dtype=torch.float64)}), "delta.w is float64 instead of float32"),
        (sums(**{"delta.w": torch.ones(3, dtype=torch.int32)}), "delta.w is int32 instead of float32"),
        (sums(**{"delta.w": [1.0, NAN, 2.0]}), "delta.w is not finite"),
        (sums(clients=INF), "clients is not finite"),
        (sums(NAN), "weight is not finite"),
        (sums(INF), "weight is not finite"),
        (sums(-7.0), "its weight is -7, and it may be from 0 to 7"),
        (sums(1e9), "its weight is 1e+09, and it may be from 0 to 7"),
        (sums(0.0), "its weight is 0, and delta.w is not"),
        (sums() | {"weight": torch.ones(2)}, "weight has shape (2,) instead of ()"),
        (sums(**{"loss.total": 36.0}), "loss.total has 36 to 36, and may have 0 to 35"),
        (sums(clients=2.0), "clients has 2 to 2, and may have 0 to 1"),
        (sums(share=[-0.5, 1.5]), "share has -0.5 to 1.5, and may have 0 to 1"),
    ],
)
def test_a_wrong_sum_is_named(bad: Tree, reason: str):
    assert problem(bad, own("a"), EXPECTED, ("a",), 7.0) == reason


@pytest.mark.unit
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({}, "it brings tensors of 0 clients' own, and 1 were asked for them"),
        (own("b"), "it brings tensors of 1 clients' own, and 1 were asked for them"),
        (own("a", "b"), "it brings tensors of 2 clients' own, and 1 were asked for them"),
        (own("a", mean=torch.ones(5)), "own mean has shape (5,) instead of (4,)"),
        (own("a", mean=torch.full((4,), NAN)), "own mean is not finite"),
        (own("a", mean=torch.full((4,), 1e6)), "own mean has 1e+06 to 1e+06, and may have -10 to 10"),
        (own("a", more=1.0), "own more is not wanted"),
        ({"a": {}}, "own mean is missing"),
    ],
)
def test_wrong_tensors_of_ones_own_are_named(bad: dict[str, Tree], reason: str):
    assert problem(sums(), bad, EXPECTED, ("a",), 7.0) == reason


@pytest.mark.unit
def test_bounds_grow_with_the_clients_of_a_node():
    assert problem(sums(14.0, clients=2.0), own("a", "b"), EXPECTED, ("a", "b"), 7.0) is None
    assert "may be from 0 to 14" in str(problem(sums(15.0), own("a", "b"), EXPECTED, ("a", "b"), 7.0))
    assert "may have 0 to 2" in str(problem(sums(14.0, clients=3.0), own("a", "b"), EXPECTED, ("a", "b"), 7.0))


@pytest.mark.unit
def test_a_lighter_client_sends_less_of_what_is_counted_by_weight_alone():
    assert EXPECTED.by_weight == {"weight", "delta.w", "delta.b", "loss.total"}
    half = lighter(sums(), torch.tensor(0.5), EXPECTED.by_weight)
    assert half["delta.w"].tolist() == [0.5, -1.0, 1.5]
    assert (float(half["weight"]), float(half["loss.total"]), float(half["clients"])) == (3.5, 17.5, 1.0)
