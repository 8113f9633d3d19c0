"""A run that no update can move is stopped, one bad client stops nothing, and what was rejected is counted."""

import pytest
import torch

from conftest import make_federation
from fedvpa.algorithms.registry import make
from fedvpa.algorithms.server.rejections import NOT_FINITE, Rejections, check_rejected
from fedvpa.core.errors import TrainingError
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.training import rounds, start
from tests_shared import config

RATES = {"local.head_lr": 1e9, "local.encoder_lr": 0.001}


def rejected(*names: str, reason: str = f"delta.w {NOT_FINITE}") -> dict[str, str]:
    return dict.fromkeys(names, reason)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("answered", "bad", "last", "stops"),
    [
        ("ab", "ab", {"a": True, "b": True}, True),
        ("ab", "a", {"a": True, "b": False}, False),
        ("", "", {"a": True}, False),
        # One node alone in a round, of two that are as large: the other's clients were fine.
        ("ab", "ab", {"a": True, "b": True, "c": False, "d": False}, False),
        ("ab", "ab", {"a": True, "b": True, "c": False}, True),
        ("a", "a", {"a": True}, True),
    ],
)
def test_a_round_that_accepts_nothing_stops_the_run_unless_others_were_fine(answered, bad, last, stops):
    if not stops:
        check_rejected(3, answered, rejected(*bad), last, RATES)
        return
    with pytest.raises(
        TrainingError, match=r"round 3: all \d updates were rejected \(delta\.w is not finite\)"
    ) as error:
        check_rejected(3, answered, rejected(*bad), last, RATES)
    assert "lower local.head_lr (now 1e+09) or local.encoder_lr (now 0.001)" in str(error.value)
    assert error.value.exit_code == 1


@pytest.mark.unit
def test_updates_of_another_shape_are_not_called_diverged():
    with pytest.raises(TrainingError) as error:
        check_rejected(0, "ab", rejected("a", "b", reason="delta.w has shape (2,)"), {"a": True, "b": True}, RATES)
    assert "the same version of fedvpa" in str(error.value)
    assert "diverged" not in str(error.value)


@pytest.mark.unit
def test_what_was_rejected_is_counted_from_the_history():
    lines = [
        {"cohort": ["a", "b", "c"], "dropped": ["c"], "rejected": ["a"]},
        {"cohort": ["a", "b"], "dropped": [], "rejected": []},
        {"cohort": ["a", "d"], "dropped": [], "rejected": ["a", "d"]},
    ]
    found = Rejections.of(lines)
    assert (found.updates, found.rejected, found.rounds, found.clients) == (6, 3, 2, ("a", "d"))
    assert str(found).startswith("WARNING: 3 of 6 updates were rejected, in 2 rounds, from 2 clients ('a', 'd'); ")


@pytest.mark.unit
@pytest.mark.parametrize("engine", ["loop", "vectorised"])
def test_a_learning_rate_that_diverges_ends_in_one_message(engine: str, capsys):
    setting = config(server={"rounds": 4}, local={"head_lr": 1e9})
    algorithm, federation = make("fedvpa_gp", setting), make_federation()
    steps = rounds(algorithm, federation, EngineConfig(name=engine, workers=1), 5, start(algorithm, federation, 5))
    with pytest.raises(TrainingError, match=r"lower local\.head_lr \(now 1e\+09\)"):
        list(steps)
    assert "was rejected" in capsys.readouterr().err


@pytest.mark.unit
def test_weights_that_overflow_although_each_update_is_finite_stop_the_run(monkeypatch):
    algorithm, federation = make("global", config(server={"rounds": 2})), make_federation()
    plain = type(algorithm).server_update

    def overflows(self, state, update):
        server, losses = plain(self, state, update)
        next(iter(server.params.values())).fill_(torch.inf)
        return server, losses

    monkeypatch.setattr(type(algorithm), "server_update", overflows)
    with pytest.raises(
        TrainingError, match=r"round 0: the weights are no finite numbers any more: lower local\.head_lr"
    ):
        list(rounds(algorithm, federation, EngineConfig(workers=1), 5, start(algorithm, federation, 5)))


@pytest.mark.unit
def test_a_cohort_larger_than_the_federation_is_said(capsys):
    algorithm, federation = make("global", config(server={"rounds": 2})), make_federation()
    count = len(federation.client_ids)
    for size, said in ((count, 0), (count + 4, 1)):
        engine = EngineConfig(cohort=size, workers=1)
        for _, line in rounds(algorithm, federation, engine, 5, start(algorithm, federation, 5)):
            assert len(line["cohort"]) == count
        expected = f"engine.cohort={size}, and there are {count} clients: each round asks all of them"
        assert capsys.readouterr().err.count(expected) == said
