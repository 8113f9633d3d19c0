from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from fedvpa.algorithms.server.grouping import Timetable, balanced_greedy, labels_of, regrouped
from fedvpa.core.errors import ConfigError
from fedvpa.core.tree import Tree


def report(losses: Sequence[float], label: Sequence[float]) -> Tree:
    return {"losses": torch.tensor(losses), "label": torch.tensor(label)}


@pytest.mark.unit
def test_bidding_by_hand():
    # All want selector 0; it keeps the two of least loss. The three others want 2, which may keep two of them;
    # the last one gets what is left although it likes it least.
    losses = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.6, 0.4], [0.2, 0.9, 0.8], [0.4, 0.9, 0.7], [0.5, 0.8, 0.6]])
    assert balanced_greedy(losses).tolist() == [0, 2, 0, 1, 2]
    # A full selector sends away the bidders whom it fits worst, whatever they lose.
    assert balanced_greedy(torch.tensor([[0.3, 0.4], [0.2, 0.9], [0.1, 0.2], [0.25, 9.0]])).tolist() == [1, 0, 0, 1]
    # Equals: the first selector, the first clients.
    assert balanced_greedy(torch.ones(5, 2)).tolist() == [0, 0, 0, 1, 1]
    assert balanced_greedy(torch.tensor([[3.0, 1.0, 2.0]])).tolist() == [1]


@pytest.mark.unit
@pytest.mark.parametrize(("clients", "selectors"), [(1, 4), (4, 3), (10, 3), (23, 5), (12, 1)])
def test_groups_are_balanced_and_follow_the_clients_not_their_order(clients: int, selectors: int):
    generator = torch.Generator().manual_seed(clients)
    losses = torch.rand(clients, selectors, generator=generator)
    losses[:, 0] -= 0.5
    labels = balanced_greedy(losses)
    sizes = torch.bincount(labels, minlength=selectors)
    assert set(sizes.tolist()) <= {clients // selectors, -(-clients // selectors)}
    order = torch.randperm(clients, generator=generator)
    assert torch.equal(balanced_greedy(losses[order]), labels[order])


@pytest.mark.unit
def test_grouping_separates_clients_whom_different_selectors_fit():
    fits = {"b": (0.9, 0.2), "a": (0.1, 0.8), "d": (0.3, 0.7), "c": (0.6, 0.5)}
    found = regrouped({name: report(losses, [0.0, 0.0]) for name, losses in fits.items()})
    assert {name: own["label"].tolist() for name, own in found.items()} == {
        "b": [0.0, 1.0],
        "a": [1.0, 0.0],
        "d": [1.0, 0.0],
        "c": [0.0, 1.0],
    }
    assert list(found) == list(fits)
    assert found["c"]["losses"].tolist() == pytest.approx([0.6, 0.5])
    assert regrouped({}) == {}
    alike = {name: report([1.0, 1.0], [0.0, 0.0]) for name in "ba"}
    assert regrouped(alike)["a"]["label"].tolist() == [1.0, 0.0], "among equals the id decides"


@pytest.mark.unit
def test_who_never_reported_trains_the_selector_with_the_fewest_clients():
    label = torch.eye(3).tolist()
    known = {name: report([0.0] * 3, label[trains]) for name, trains in (("a", 2), ("b", 0), ("c", 0))}
    assert labels_of(known, ["new", "b", "newer", "newest"], 3).argmax(-1).tolist() == [1, 0, 1, 2]
    assert labels_of({}, ["x", "y", "z", "w"], 3).argmax(-1).tolist() == [0, 1, 2, 0]
    assert labels_of(known, [], 3).shape == (0, 3)


@pytest.mark.unit
def test_a_timetable_by_hand():
    table = Timetable.of(2, 11, None, 4)
    assert table == Timetable(selectors=2, rounds=11, warmup_rounds=3, regroup_every=4)
    reports = {"b": report([0.0, 0.0], [0.0, 1.0]), "a": report([0.0, 0.0], [1.0, 0.0])}
    turns = [table.labels(round_, reports, ["b", "a", "c"]).argmax(-1).tolist() for round_ in range(8)]
    assert turns == [[0] * 3] * 3 + [[1] * 3] * 3 + [[1, 0, 0]] * 2
    assert [done for done in range(12) if table.groups_after(done)] == [6, 10]
    with pytest.raises(ConfigError, match=r"3 selectors, 4 rounds each, leaves none of 12.*above 12"):
        Timetable.of(3, 12, 4, None)
