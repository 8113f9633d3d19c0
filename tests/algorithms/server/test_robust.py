from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import make_federation
from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.config import ServerConfig
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server.limits import EXCESS, MEASURED, Guard
from fedvpa.algorithms.server.robust import ABSURD, Aggregate, Part, aggregate, krum, trimmed_mean
from fedvpa.algorithms.server.validation import Bounds, Expected
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import rounds, start
from tests_shared import config

EXPECTED = Expected(
    {"w": (3,), "b": ()},
    {"clients": Bounds((), 0.0, 1.0), "loss.total": Bounds((), 0.0, 10.0, per="weight")},
    {"mean": Bounds((5,), -9.0, 9.0)},
)
FREE = {"clip_norm": None, "max_weight": None}
RULES = ("mean", "median", "trimmed_mean", "krum")


def part(name: str, change: list[float], b: float = 0.0, weight: float = 2.0, loss: float = 1.0) -> Part:
    sums = {
        "weight": torch.tensor(weight),
        "delta.w": weight * torch.tensor(change),
        "delta.b": torch.tensor(weight * b),
        "clients": torch.tensor(1.0),
        "loss.total": torch.tensor(weight * loss),
    }
    return Part((name,), CohortUpdate(sums, {name: {"mean": torch.ones(5)}}))


def total(parts: list[Part], guard: Guard | None = None, **rules: object) -> Aggregate:
    return aggregate(parts, EXPECTED, guard or Guard(), ServerConfig(**{**FREE, **rules}))


def mean_change(found: Aggregate) -> np.ndarray:
    return (found.update.sums["delta.w"] / found.update.sums["weight"]).numpy()


@pytest.mark.unit
def test_without_limits_the_mean_is_weighted_and_nothing_honest_is_rejected():
    found = total([part("a", [1, 2, 3], weight=1.0), part("b", [5, 6, 7], weight=3.0)])
    assert not found.rejected
    assert mean_change(found) == pytest.approx([4, 5, 6])
    assert list(found.update.own) == ["a", "b"]
    assert (found.clip_norm, found.max_weight) == (None, None)


@pytest.mark.unit
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("first", [True, False])
def test_an_unusable_update_is_rejected_by_name_and_the_rest_counts(rule: str, first: bool):
    honest = [part("a", [1, 2, 3]), part("b", [3, 4, 5]), part("c", [5, 6, 7])]
    nameless = Part(("bad",), CohortUpdate({"weight": torch.ones(())}, {"bad": {"mean": torch.ones(5)}}))
    for bad, reason in (
        (part("bad", [1, float("nan"), 3]), "delta.w is not finite"),
        (part("bad", [9e9, 0, 0]), f"and {ABSURD * np.sqrt(50):.3g} is absurd already"),
        (nameless, "delta.w is missing"),
    ):
        found = total([bad, *honest] if first else [*honest, bad], rule=rule)
        assert found.rejected.keys() == {"bad"}
        assert reason in found.rejected["bad"]
        assert mean_change(found) == pytest.approx([1, 2, 3] if rule == "krum" else [3, 4, 5])
        assert "bad" not in found.update.own


@pytest.mark.reference
def test_rules_against_numpy_and_by_hand():
    rows = np.random.default_rng(0).standard_normal((7, 5))
    tensor = torch.from_numpy(rows)
    assert trimmed_mean(tensor, 3).numpy() == pytest.approx(np.median(rows, axis=0))
    assert trimmed_mean(tensor[:6], 2).numpy() == pytest.approx(np.median(rows[:6], axis=0))
    assert trimmed_mean(tensor, 2).numpy() == pytest.approx(np.sort(rows, axis=0)[2:5].mean(axis=0))
    squared = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    for attackers in (0, 1, 2, 5):
        nearest = max(7 - attackers - 2, 1)
        scores = [np.sort(np.delete(squared[row], row))[:nearest].sum() for row in range(7)]
        assert krum(tensor, attackers) == int(np.argmin(scores))


@pytest.mark.unit
@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum"])
def test_no_weight_and_no_loss_of_a_liar_matters_to_a_robust_rule(rule: str):
    honest = [part(str(row), [1.0 + 0.01 * row, 2.0, 3.0], loss=0.5) for row in range(5)]
    liar = part("liar", [-40.0, -40.0, -40.0], weight=1e5, loss=9.0)
    fooled = total([*honest, liar])
    assert not fooled.rejected
    assert mean_change(fooled)[0] < -39
    found = total([*honest, liar], rule=rule)
    assert mean_change(found) == pytest.approx([1.02, 2.0, 3.0], abs=0.03)
    sums = found.update.sums
    assert (float(sums["weight"]), float(sums["clients"])) == (12.0, 6.0)
    assert float(sums["loss.total"] / sums["weight"]) == pytest.approx(0.5)


@pytest.mark.unit
def test_the_first_updates_are_clipped_and_cut_at_the_medians_so_far():
    honest = [part(str(row), [1.0 + row, 0, 0], weight=2.0 + row) for row in range(4)]
    liar = part("liar", [0, -99.0, 0], weight=1e6)
    found = total([*honest, liar], clip_norm="auto", max_weight="auto")
    assert not found.rejected
    assert (found.clip_norm, found.max_weight) == (3.0, 4.0)
    changes, weights = [1.0, 2.0, 3.0, 3.0], [2.0, 3.0, 4.0, 4.0]
    along = sum(change * weight for change, weight in zip(changes, weights, strict=True))
    assert float(found.update.sums["weight"]) == sum(weights) + 4.0
    assert found.update.sums["delta.w"].tolist() == pytest.approx([along, -3.0 * 4.0, 0.0])
    assert found.guard.norms.tolist() == [1.0, 2.0, 3.0, 4.0, 99.0]


@pytest.mark.unit
def test_what_was_announced_is_kept_to_and_more_is_a_lie():
    guard = Guard(typical_norm=2.0, typical_weight=3.0)
    auto = {"guard": guard, "clip_norm": "auto", "max_weight": "auto"}

    def reporting(name: str, length: float, weight: float, octaves: float) -> Part:
        plain = part(name, [length, 0, 0], weight=weight)
        sums = {**plain.update.sums, EXCESS: torch.tensor(octaves)}
        return replace(plain, update=replace(plain.update, sums=sums))

    honest = reporting("a", 2.0, 3.0, 1.0)
    found = total([honest, reporting("long", -50.0, 3.0, 1.0)], **auto)
    assert not found.rejected
    assert mean_change(found) == pytest.approx([0, 0, 0], abs=1e-6)
    assert EXCESS not in found.update.sums
    assert (found.clip_norm, found.guard.typical_norm) == (2.0, 4.0)
    for bad, reason in (
        (reporting("bad", 1.0, 3.5, 0.0), "its weight is 3.5, and it may be from 0 to 3"),
        (reporting("bad", 1.0, 3.0, 2.0), "limits.excess has 2 to 2, and may have -1 to 1"),
        (reporting("bad", 300.0, 3.0, 1.0), "its change has norm 300, and 200 is absurd already"),
        (part("bad", [1, 0, 0]), "limits.excess is missing"),
    ):
        found = total([bad, honest], **auto)
        assert found.rejected == {"bad": reason}
        assert mean_change(found) == pytest.approx([2, 0, 0])
        assert found.guard.typical_norm == 4.0, "who is rejected is not heard"


@pytest.mark.unit
def test_a_nodes_sum_may_weigh_as_much_as_its_clients_and_move_by_one_norm():
    node = CohortUpdate({**part("", [5.0, 0, 0], weight=6.0).update.sums, "clients": torch.tensor(2.0)})
    own = {name: {"mean": torch.ones(5)} for name in "ab"}
    both = Part(("a", "b"), replace(node, own=own))
    found = aggregate([both], EXPECTED, Guard(), ServerConfig(clip_norm=1.0, max_weight=3.0))
    assert not found.rejected
    assert mean_change(found) == pytest.approx([1, 0, 0])
    found = aggregate([both], EXPECTED, Guard(), ServerConfig(clip_norm=1.0, max_weight=2.9))
    assert found.rejected.keys() == {"a", "b"}
    assert not found.update.sums


@pytest.mark.equivalence
@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum"])
def test_engines_agree_under_every_rule(rule: str):
    setting, finals = config(server={"rounds": 5, "rule": rule}), {}
    for name in ("loop", "vectorised"):
        algorithm, federation = make("fedvpa_gp", setting), make_federation()
        state, said = start(algorithm, federation, 5), []
        for reached, line in rounds(algorithm, federation, EngineConfig(name=name, cohort=5, workers=1), 5, state):
            state = reached
            said.append(line)
            assert line["rejected"] == []
        assert state.guard.typical_norm is not None, f"{MEASURED} updates came"
        finals[name] = state.server.final
    for name, leaf in finals["loop"].items():
        torch.testing.assert_close(leaf, finals["vectorised"][name], rtol=1e-5, atol=1e-6)
