from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch

from conftest import make_federation
from fedvpa.algorithms.registry import make
from fedvpa.core.errors import ConfigError, RunError
from fedvpa.core.frozen import to_tensors
from fedvpa.core.tree import size
from fedvpa.engines.checkpoint import load_checkpoint, save_checkpoint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.private import Privacy, Terms
from fedvpa.engines.training import rounds, start
from fedvpa.privacy.audit import auc_of
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.privacy.keyed import Key
from tests_shared import config

SETTING = config(server={"rounds": 4}, eb={"components": 2, "width": 0.0, "curvature": "shared"})
METHODS = ["fedem", "fedvpa_gp", "fedeb", "lore"]


def privacy(noise: float = 0.7, *, rate: float = 0.5, sampling: str = "poisson", clip="auto", seed: int = 1) -> Privacy:
    settings = PrivacyConfig(noise_multiplier=noise, sampling=sampling, clip=clip)
    return Privacy(settings, Terms(noise, rate, rate * 6, 6, 4, 0.01), Key.of_seed(seed))


def run(method: str, noise: Privacy | None, engine: str = "loop", state=None, *, seed: int = 7):
    federation, algorithm = make_federation(), make(method, SETTING)
    lines, state = [], state or start(algorithm, federation, seed)
    states = [state]
    for reached, line in rounds(algorithm, federation, EngineConfig(name=engine), seed, state, privacy=noise):
        states.append(reached)
        lines.append(line)
    return states, lines


def assert_same(one, two, **tolerance: float) -> None:
    first, second = to_tensors(one.server), to_tensors(two.server)
    for name, leaf in first.items():
        torch.testing.assert_close(leaf, second[name], equal_nan=True, **tolerance)


@pytest.mark.equivalence
@pytest.mark.parametrize("method", METHODS)
def test_engines_agree_and_history_names_nobody(method: str):
    (*_, slow), lines = run(method, privacy(), "loop")
    (*_, fast), again = run(method, privacy(), "vectorised")
    assert_same(slow, fast, rtol=2e-4, atol=2e-4)
    for line in [*lines, *again]:
        assert not line["cohort"] + line["dropped"] + line["rejected"]
        assert not line["losses"]
    assert lines[-1]["privacy"]["releases"] == 4
    assert not any("client-" in str(line) for line in lines)
    assert len(slow.guard.norms) == 0, "no norm of a single update is kept"


@pytest.mark.equivalence
def test_a_resumed_run_draws_the_same_coins_and_noise(tmp_path: Path):
    whole, _ = run("fedem", privacy())
    save_checkpoint(tmp_path / "two", whole[2], {})
    state, _ = load_checkpoint(tmp_path / "two", type(whole[2].server))
    assert state.ledger is not None
    assert state.ledger.releases == 2
    rest, _ = run("fedem", privacy(), state=state)
    assert_same(rest[-1], whole[-1], rtol=0, atol=0)
    with pytest.raises(RunError, match="another key"):
        run("fedem", privacy(seed=2), state=state)


@pytest.mark.unit
def test_noise_and_cohorts_do_not_follow_from_the_seed_of_the_run():
    (_, one, *_), _ = run("fedem", privacy(seed=1))
    (_, two, *_), _ = run("fedem", privacy(seed=2))
    assert not torch.equal(one.server.params["head.base"], two.server.params["head.base"])


@pytest.mark.unit
def test_without_noise_and_clips_a_round_is_the_mean_over_clients_that_count_alike():
    noise = replace(privacy(1e-6, rate=1.0, clip=1e6), terms=Terms(1e-12, 1.0, 6.0, 6, 4, 0.01))
    (_, private, *_), _ = run("global", noise)
    algorithm, federation = make("global", SETTING), make_federation()
    first = start(algorithm, federation, 7).server
    changes = []
    for name in federation.client_ids:
        received = algorithm.broadcast(first, [name]).client(0)
        draws = algorithm.draw(7, algorithm.broadcast(first, [name]), name, federation.size(name))
        update, _ = algorithm.client_update(received, federation.held(name), {}, draws)
        weight = update.sums["weight"]
        changes.append(update.sums["delta.head.base"] / weight if weight > 0 else update.sums["delta.head.base"])
    torch.testing.assert_close(
        private.server.params["head.base"], first.params["head.base"] + sum(changes) / 6, rtol=1e-4, atol=1e-6
    )


@pytest.mark.unit
def test_a_round_of_nobody_is_released_with_noise():
    states, _ = run("global", privacy(rate=1e-12))
    assert not torch.equal(states[0].server.params["head.base"], states[1].server.params["head.base"])
    assert states[-1].ledger.releases == 4


@pytest.mark.unit
@pytest.mark.parametrize(
    ("method", "reason"), [("fedbiscuit", "by itself"), ("informed", "all clients"), ("vpl", "all")]
)
def test_what_is_no_sum_over_a_cohort_is_refused(method: str, reason: str):
    with pytest.raises(ConfigError, match=reason):
        run(method, privacy())


def planted(noise: float, count: int = 60) -> Privacy:
    settings = PrivacyConfig(noise_multiplier=noise, clip=0.2, canaries=count)
    return Privacy(settings, Terms(noise, 0.9, 0.9 * 6, 6, 4, 0.01), Key.of_seed(1))


@pytest.mark.equivalence
def test_canaries_are_the_same_on_both_engines_and_after_a_resume(tmp_path: Path):
    states, _ = run("fedem", planted(0.7), "loop")
    (*_, fast), _ = run("fedem", planted(0.7), "vectorised")
    assert_same(states[-1], fast, rtol=2e-4, atol=2e-4)
    for name, leaf in states[-1].ledger.evidence.items():
        torch.testing.assert_close(leaf, fast.ledger.evidence[name], rtol=2e-4, atol=2e-4)
    save_checkpoint(tmp_path / "two", states[2], {})
    state, _ = load_checkpoint(tmp_path / "two", type(states[2].server))
    rest, _ = run("fedem", planted(0.7), state=state)
    assert_same(rest[-1], states[-1], rtol=0, atol=0)
    for name, leaf in states[-1].ledger.evidence.items():
        assert torch.equal(leaf, rest[-1].ledger.evidence[name])


@pytest.mark.unit
def test_who_knows_all_but_the_coins_reads_them_without_noise_and_not_with_it():
    for noise, count, least, most in ((1e-6, 8, 0.95, 1.0), (30.0, 60, 0.2, 0.8)):
        (*_, last), _ = run("global", planted(noise, count))
        release = planted(noise, count).next(last.ledger, make("global", SETTING).expected(last.server))
        canaries, deviation = release.canaries, noise * release.shape.sensitivity
        scores = canaries.released_scores(last.ledger.evidence, 4, deviation)
        for found in (scores, canaries.server_scores(last.ledger.evidence, deviation)):
            assert least <= auc_of(found[canaries.planted], found[~canaries.planted]) <= most


@pytest.mark.unit
@pytest.mark.parametrize("rate", [1e-12, 1.0])
def test_bytes_are_those_of_one_client_times_the_expected_cohort_whoever_came(rate: float):
    noise = replace(privacy(), terms=replace(privacy().terms, rate=rate, cohort=3.0))
    _, lines = run("fedem", noise)
    federation = make_federation()
    algorithm = make("fedem", SETTING)
    server = start(algorithm, federation, 7).server
    weights = sum(prod(shape) for shape in algorithm.expected(server).deltas.values())
    statistics = 1 + 1 + 2 + 1  # the weight, octaves, two memberships, the bit of the clip
    assert [line["uplink_bytes"] for line in lines] == [3 * 4 * (weights + statistics)] * 4
    sent = size(algorithm.broadcast(server, federation.client_ids[:1]).shared)
    told = 4 * (1 + 2 + 1)  # a clip, limits of octaves and memberships, the largest weight
    assert lines[0]["downlink_bytes"] == 3 * (sent + told)


@pytest.mark.unit
def test_messages_of_a_private_round_name_and_count_nobody(capsys):
    from fedvpa.algorithms.server.rejections import check_rejected, say_rejected
    from fedvpa.core.errors import TrainingError

    rejected = {"client-1": "its weight is 3, and it may be from 0 to 2", "client-2": "delta.head.base is not finite"}
    say_rejected(3, rejected, hidden=True)
    assert capsys.readouterr().err.strip() == "round 3: updates were rejected (not finite, not of the form asked for)"
    with pytest.raises(TrainingError, match=r"all updates that came were rejected \(not finite") as caught:
        check_rejected(3, rejected, rejected, dict.fromkeys(rejected, True), {"local.head_lr": 0.1}, hidden=True)
    assert "client-" not in str(caught.value)


@pytest.mark.unit
def test_what_is_sent_does_not_tell_how_many_came(monkeypatch):
    """``fedeb`` tells what one visit weighs, which follows from the size of a cohort: of the expected one, here."""
    from fedvpa.algorithms.fedeb import FedEB

    plain, asked = FedEB.broadcast, list[int]()

    def broadcast(self, state, client_ids):
        asked.append(len(client_ids))
        return plain(self, state, client_ids)

    monkeypatch.setattr(FedEB, "broadcast", broadcast)
    for rate in (1e-12, 1.0):
        run("fedeb", replace(privacy(), terms=replace(privacy().terms, rate=rate, cohort=3.0)))
    assert set(asked) <= {1, 3}, "3 in a round, 1 where the bytes of one client are counted"


@pytest.mark.unit
def test_no_codec_lets_a_client_move_the_sum_by_more_than_the_noise_is_made_for(monkeypatch):
    """Rounding makes some changes longer than the client sent them; the server shortens them again."""
    from fedvpa.engines.private import Release

    plain, lengths = Release.noised, list[float]()

    def noised(self, update, round_):
        changes = [leaf.flatten() for name, leaf in update.sums.items() if name.startswith("delta.")]
        lengths.append(float(torch.cat(changes).norm()))
        return plain(self, update, round_)

    monkeypatch.setattr(Release, "noised", noised)
    federation, algorithm = make_federation((9,)), make("global", SETTING)
    noise = replace(privacy(rate=1.0, clip=0.15), terms=replace(privacy().terms, rate=1.0, cohort=1.0, clients=1))
    engine, first = EngineConfig(name="loop", codec="int8"), start(algorithm, federation, 7)
    list(rounds(algorithm, federation, engine, 7, first, privacy=noise))
    assert max(lengths) <= 0.15 * (1 + 1e-6)
    assert max(lengths) > 0.149, "some change is as long as it may be"
