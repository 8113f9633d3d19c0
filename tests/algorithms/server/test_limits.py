"""How far one client may move the sum: found from the first updates, followed, kept to by clients, kept in state."""

import math
from dataclasses import replace

import pytest
import torch

from fedvpa.algorithms.base import ClientUpdate
from fedvpa.algorithms.config import ServerConfig
from fedvpa.algorithms.server.limits import (
    BY_WEIGHT,
    EXCESS,
    MAX_WEIGHT,
    MEASURED,
    TYPICAL_NORM,
    Guard,
    answers,
    limited,
    norm,
    said,
)
from fedvpa.algorithms.server.validation import Bounds, Expected
from fedvpa.core.frozen import from_tensors, to_tensors
from fedvpa.core.tree import Tree

AUTO = ServerConfig()
NUMBERS = ServerConfig(clip_norm=2.5, max_weight=4.0)
NONE = ServerConfig(clip_norm=None, max_weight=None)
EXPECTED = Expected(
    {"w": (3,), "b": ()}, {"loss.total": Bounds((), 0.0, 9.0, per="weight"), "clients": Bounds((), 0.0, 1.0)}
)
KNOWN = Guard(typical_norm=2.5, typical_weight=4.0)


def sums(w: float, b: float, weight: float) -> Tree:
    """Of a client whose change is (w, 0, 0) and b."""
    return {
        "weight": torch.tensor(weight),
        "delta.w": weight * torch.tensor([w, 0.0, 0.0]),
        "delta.b": torch.tensor(weight * b),
        "loss.total": torch.tensor(weight * 0.5),
        "clients": torch.tensor(1.0),
    }


@pytest.mark.unit
def test_a_norm_is_of_the_change_whatever_weight_is_claimed():
    for weight in (1e-3, 1.0, 1e6):
        assert float(norm(sums(3.0, 4.0, weight))) == pytest.approx(5.0)
    assert float(norm(sums(3.0, 4.0, 0.0))) == 0
    assert float(norm({"weight": torch.tensor(3.0)})) == 0


@pytest.mark.unit
def test_a_client_cuts_its_weight_shortens_its_change_and_reports_by_how_much():
    sent = limited(
        ClientUpdate(sums(3.0, 4.0, 8.0), {"weight": torch.tensor(8.0)}), KNOWN.announced(AUTO, EXPECTED)
    ).sums
    assert float(sent["weight"]) == 4.0
    assert (sent["delta.w"] / 4).tolist() == pytest.approx([1.5, 0.0, 0.0])
    assert float(sent["delta.b"] / 4) == pytest.approx(2.0)
    assert (float(sent["loss.total"]), float(sent["clients"])) == (2.0, 1.0)
    assert float(sent[EXCESS]) == 1.0
    for length, octaves in ((2.5, 0.0), (2.5 / math.sqrt(2), -0.5), (0.1, -1.0), (2.5 * 2**0.25, 0.25), (99.0, 1.0)):
        report = limited(ClientUpdate(sums(length, 0.0, 3.0)), KNOWN.announced(AUTO, EXPECTED)).sums[EXCESS]
        assert float(report) == pytest.approx(octaves, abs=1e-6)


@pytest.mark.unit
def test_what_is_within_the_limits_leaves_as_it_is():
    small = ClientUpdate(sums(1.0, 1.0, 3.0), {"weight": torch.tensor(3.0), "x": torch.ones(2)})
    for rules in (AUTO, NUMBERS, NONE):
        sent = limited(small, KNOWN.announced(rules, EXPECTED))
        assert all(torch.equal(sent.sums[name], leaf) for name, leaf in small.sums.items())
        assert all(torch.equal(sent.own[name], leaf) for name, leaf in small.own.items())
        assert (EXCESS in sent.sums) == (rules is AUTO)
    long = ClientUpdate(sums(3.0, 4.0, 8.0), {"weight": torch.tensor(8.0)})
    assert limited(long, KNOWN.announced(NONE, EXPECTED)).sums == long.sums
    told = limited(long, Guard().announced(NUMBERS, EXPECTED))
    assert (float(told.sums["weight"]), float(told.own["weight"])) == (4.0, 4.0)
    assert float(norm(told.sums)) == pytest.approx(2.5)


@pytest.mark.unit
def test_limits_are_the_medians_of_the_first_updates_and_then_announced():
    guard, lengths = Guard(), [float(value) for value in range(1, MEASURED + 1)]
    assert guard.announced(AUTO, EXPECTED) == {}
    assert (guard.clip_norm(AUTO), guard.max_weight(AUTO)) == (None, None)
    for start in range(0, MEASURED, 5):
        assert guard.measures(AUTO, Expected({"w": (3,)}))
        guard = guard.after([sums(length, 0.0, 10 * length) for length in lengths[start : start + 5]], 5)
        middle = lengths[(start + 4) // 2]
        assert (guard.clip_norm(AUTO), guard.max_weight(AUTO)) == (middle, 10 * middle)
    assert not guard.measures(AUTO, Expected({"w": (3,)}))
    told = {name: float(value) for name, value in guard.announced(AUTO, EXPECTED).items()}
    assert told == {TYPICAL_NORM: 10.0, MAX_WEIGHT: 100.0, f"{BY_WEIGHT}.loss.total": 1.0}
    assert EXCESS in answers(Expected({}), guard.announced(AUTO, EXPECTED)).sums
    assert EXCESS not in answers(Expected({}), guard.announced(NUMBERS, EXPECTED)).sums
    assert [line.split(":")[0] for line in said(Guard(), guard, AUTO)] == [
        "clip_norm=auto",
        "max_weight=auto",
    ]
    assert said(guard, guard, AUTO) == said(Guard(), guard, NUMBERS) == []


@pytest.mark.unit
def test_what_moves_nothing_is_not_measured():
    idle = Guard().after([sums(0.0, 0.0, 3.0), sums(0.0, 0.0, 0.0)], 2)
    assert (len(idle.norms), idle.weights.tolist()) == (0, [3.0])
    weighed = replace(idle, typical_weight=3.0)
    assert weighed.measures(AUTO, Expected({"w": (3,)}))
    assert not weighed.measures(AUTO, Expected({})), "a method without changes need not wait for their norm"
    for rules in (NUMBERS, NONE):
        assert not Guard().measures(rules, Expected({"w": (3,)}))


@pytest.mark.unit
def test_the_norm_follows_the_mean_report_and_a_fifth_of_liars_shifts_it_by_a_quarter_of_an_octave():
    def reported(*octaves: float) -> list[Tree]:
        return [{"weight": torch.tensor(1.0), EXCESS: torch.tensor(value)} for value in octaves]

    assert KNOWN.after(reported(1.0, 0.5), 3).typical_norm == pytest.approx(2.5 * math.sqrt(2))
    assert KNOWN.after([], 0) == KNOWN
    honest, guard = 0.3, KNOWN
    for _ in range(60):
        octaves = max(-1.0, min(1.0, math.log2(honest / guard.typical_norm)))
        guard = guard.after(reported(*[octaves] * 4, 1.0), 5)
    assert guard.typical_norm == pytest.approx(honest * 2**0.25)
    assert guard.typical_weight == 4.0


@pytest.mark.unit
def test_what_was_found_is_kept_bit_for_bit():
    for guard in (Guard(), Guard(torch.tensor([0.1, 0.7]), torch.ones(3)), replace(KNOWN, typical_norm=1 / 3)):
        again = from_tensors(Guard, to_tensors(guard))
        assert (again.typical_norm, again.typical_weight) == (guard.typical_norm, guard.typical_weight)
        assert torch.equal(again.norms, guard.norms)
        assert torch.equal(again.weights, guard.weights)
