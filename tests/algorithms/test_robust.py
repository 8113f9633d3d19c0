import numpy as np
import pytest
import torch

from conftest import make_federation
from fedvpa.algorithms.base import CohortUpdate
from fedvpa.algorithms.config import ServerConfig
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.robust import ABSURD, Part, aggregate, clipped, krum, norm, trimmed_mean
from fedvpa.engines import vectorised
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import rounds, start
from tests_shared import config

PARAMS = {"w": torch.zeros(3), "b": torch.zeros(())}


def part(name: str, change: list[float], b: float = 0.0, weight: float = 2.0) -> Part:
    sums = {
        "weight": torch.tensor(weight),
        "delta.w": weight * torch.tensor(change),
        "delta.b": torch.tensor(weight * b),
        "clients": torch.tensor(1.0),
    }
    return Part((name,), CohortUpdate(sums, {name: {"mean": torch.ones(5), "log_var": torch.zeros(5)}}))


def mean_change(update: CohortUpdate) -> np.ndarray:
    return (update.sums["delta.w"] / update.sums["weight"]).numpy()


@pytest.mark.unit
def test_the_mean_is_weighted_and_nothing_honest_is_rejected():
    update, rejected = aggregate(
        [part("a", [1, 2, 3], weight=1.0), part("b", [5, 6, 7], weight=3.0)], PARAMS, ServerConfig()
    )
    assert not rejected
    assert mean_change(update) == pytest.approx([4, 5, 6])
    assert list(update.own) == ["a", "b"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (part("bad", [1, float("nan"), 3]), "not finite"),
        (part("bad", [1, 2, 3], b=float("inf")), "not finite"),
        (part("bad", [1, 2, 3, 4]), r"delta.w has shape (4,), and the server (3,)"),
        (part("bad", [9e9, 0, 0]), f"above {ABSURD:.0f} times the cohort's median"),
        (
            Part(
                ("bad",), CohortUpdate(part("", [1, 2, 3]).update.sums, {"bad": {"mean": torch.ones(2) * float("nan")}})
            ),
            "not finite",
        ),
        (Part(("bad",), CohortUpdate({"weight": torch.ones(()), "delta.x": torch.ones(1)}, {})), "no such weight"),
    ],
)
def test_an_unusable_update_is_rejected_by_name_and_the_rest_counts(bad: Part, reason: str):
    honest = [part("a", [1, 2, 3]), part("b", [3, 4, 5]), part("c", [5, 6, 7])]
    for rule in ("mean", "median", "trimmed_mean", "krum"):
        update, rejected = aggregate([*honest[:1], bad, *honest[1:]], PARAMS, ServerConfig(rule=rule))
        assert rejected.keys() == {"bad"}
        assert reason in rejected["bad"]
        want = [1, 2, 3] if rule == "krum" else [3, 4, 5]
        if rule != "krum":
            assert mean_change(update) == pytest.approx(want)
        assert "bad" not in update.own


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
def test_a_robust_rule_ignores_a_liar_that_moves_the_mean(rule: str):
    parts = [part(str(row), [1.0 + 0.01 * row, 2.0, 3.0]) for row in range(5)] + [part("liar", [-40.0, -40.0, -40.0])]
    fooled, rejected = aggregate(parts, PARAMS, ServerConfig())
    assert not rejected
    assert mean_change(fooled)[0] < -4
    update, _ = aggregate(parts, PARAMS, ServerConfig(rule=rule))
    assert mean_change(update) == pytest.approx([1.02, 2.0, 3.0], abs=0.03)
    assert float(update.sums["weight"]) == 12.0
    assert float(update.sums["clients"]) == 6.0


@pytest.mark.unit
def test_clipping_shortens_the_change_and_keeps_its_direction():
    long = part("a", [3.0, 0.0, 0.0], b=4.0, weight=7.0).update
    assert float(norm(long)) == pytest.approx(5.0)
    short = clipped(long, 2.0)
    assert float(norm(short)) == pytest.approx(2.0)
    assert (short.sums["delta.w"] / short.sums["weight"]).tolist() == pytest.approx([1.2, 0.0, 0.0])
    assert clipped(long, 9.0).sums["delta.b"] == long.sums["delta.b"]
    update, _ = aggregate([part("a", [3, 0, 0], b=4)], PARAMS, ServerConfig(clip_norm=1.0))
    assert mean_change(update) == pytest.approx([0.6, 0, 0])


@pytest.mark.equivalence
@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum"])
def test_engines_agree_under_every_rule_and_survive_a_broken_client(rule: str, monkeypatch, capsys):
    setting = config(server={"rounds": 3, "rule": rule, "clip_norm": 0.5})
    ordinary = vectorised.run_clients
    finals = {}
    for name in ("loop", "vectorised"):
        algorithm, federation = make("fedvpa_gp", setting), make_federation()
        state = start(algorithm, federation, 5)
        for reached, line in rounds(algorithm, federation, EngineConfig(name=name, cohort=5, workers=1), 5, state):
            state = reached
            assert line["rejected"] == []
        finals[name] = state.server.final
    for name, leaf in finals["loop"].items():
        torch.testing.assert_close(leaf, finals["vectorised"][name], rtol=1e-5, atol=1e-6)

    def broken(*arguments):
        parts, kept = ordinary(*arguments)
        for found in parts:
            if found.clients == ("client-0",):
                found.update.sums["delta.head.base"].fill_(float("nan"))
        return parts, kept

    monkeypatch.setattr(vectorised, "run_clients", broken)
    algorithm, federation = make("fedvpa_gp", setting), make_federation()
    engine = EngineConfig(cohort=6, workers=1)
    states, lines = zip(*rounds(algorithm, federation, engine, 5, start(algorithm, federation, 5)), strict=True)
    assert [line["rejected"] for line in lines] == [["client-0"]] * 3
    assert "client 'client-0' was rejected: it is not finite" in capsys.readouterr().err
    assert all(torch.isfinite(leaf).all() for leaf in states[-1].server.final.values())
    assert "client-0" not in states[-1].server.posteriors
