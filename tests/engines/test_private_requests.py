"""Sums with noise of a method that asks twice a round: one release and one coin for each request, whatever happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from conftest import make_federation
from fedvpa.algorithms.base import Broadcast, ClientUpdate, CohortUpdate, FeatureSetting, Plain
from fedvpa.algorithms.client.draws import Draws, draw
from fedvpa.algorithms.config import MethodConfig
from fedvpa.algorithms.server.validation import Bounds, Expected, PrivatePart
from fedvpa.core.errors import ConfigError, TrainingError
from fedvpa.core.frozen import to_tensors
from fedvpa.core.tree import Tree
from fedvpa.engines import private
from fedvpa.engines.checkpoint import load_checkpoint, save_checkpoint
from fedvpa.engines.config import EngineConfig
from fedvpa.engines.private import Privacy, Release, Terms
from fedvpa.engines.training import TrainState, rounds, start
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.privacy.keyed import Key
from fedvpa.selector.pairs import Pairs
from tests_shared import config

ROUNDS, USERS, WEIGHTS = 3, 6, 499


@dataclass(frozen=True)
class TwiceState:
    """What the server of ``Twice`` knows."""

    params: Tree
    round: int = 0
    half: bool = False


@dataclass(frozen=True)
class Twice(Plain):
    """Sums of what clients are given, asked for twice a round.

    Attributes:
        sent: Client id → the length of its change; 0 for those that are not named.
        scales: Of the clip, by round.
    """

    config: MethodConfig
    sent: dict[str, float]
    scales: tuple[float, ...] = (1.0, 1.0, 1.0)
    kept: bool = True
    name: str = "twice"
    reads_groups: bool = False
    rounds: int = ROUNDS
    state_type: type[TwiceState] = TwiceState

    def init(self, setting: FeatureSetting, seed: int) -> TwiceState:
        return TwiceState({"w": torch.zeros(WEIGHTS)})

    def broadcast(self, state: TwiceState, client_ids: Sequence[str]) -> Broadcast:
        return Broadcast({"params.w": state.params["w"]}, {}, state.round)

    def expected(self, state: TwiceState) -> Expected:
        part = PrivatePart(start=0.5, scale=self.scales[min(state.round, ROUNDS - 1)])
        own = {"note": Bounds((), 0.0, 1.0, released="kept" if self.kept else "noised")}
        return Expected({"w": (WEIGHTS,)}, {}, own, {"all": part})

    def draw(self, seed: int, broadcast: Broadcast, client_id: str, size: int) -> Draws:
        object.__setattr__(self, "asked", client_id)
        return draw(seed, broadcast.round, client_id, size, self.config.local)

    def client_update(self, received: Tree, held: Pairs, private: Tree, draws: Draws) -> tuple[ClientUpdate, Tree]:
        client: str = self.__dict__["asked"]
        direction = torch.linspace(-1, 1, WEIGHTS) + 0.1
        change = self.sent.get(client, 0.0) * direction / direction.norm()
        return ClientUpdate({"weight": torch.tensor(2.0), "delta.w": 2 * change}, {"note": torch.ones(())}), {}

    def server_update(self, state: TwiceState, update: CohortUpdate) -> tuple[TwiceState, dict[str, float]]:
        assert not update.own, "what is kept does not leave a client"
        params = {"w": state.params["w"] + update.sums["delta.w"] / update.sums["weight"]}
        return TwiceState(params, state.round + state.half, not state.half), {}


def method(lengths: Sequence[float] = (0.3,) * USERS, **more) -> Twice:
    return Twice(config(server={"rounds": ROUNDS}), dict(zip(names(), lengths, strict=False)), **more)


def names() -> tuple[str, ...]:
    return make_federation().client_ids


def noise(sigma: float = 0.7, rate: float = 0.5, releases: int = 2 * ROUNDS, **own) -> Privacy:
    settings = PrivacyConfig.parse({"noise_multiplier": 1.0, "clip": 0.5, **own})
    return Privacy(settings, Terms(sigma, rate, rate * USERS, USERS, releases, 0.01), Key.of_seed(5))


def run(
    algorithm: Twice,
    mechanism: Privacy,
    state: TrainState | None = None,
    users: Sequence[str] | None = None,
    keep: Path | None = None,
) -> list[TrainState]:
    federation = make_federation()
    members = replace(
        federation,
        partition=replace(
            federation.partition,
            clients=tuple(one for one in federation.partition.clients if users is None or one.client_id in users),
        ),
    )
    begin = state or start(algorithm, members, 3)
    states = []
    for reached, _ in rounds(algorithm, members, EngineConfig(name="loop"), 3, begin, privacy=mechanism):
        states.append(reached)
        if keep is not None:
            save_checkpoint(keep, reached, {})
    return states


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Every sum that leaves the mechanism, in order."""
    found, plain = [], private.noised

    def noised(*arguments):
        told = plain(*arguments)
        found.append(told["delta.w"])
        return told

    monkeypatch.setattr(private, "noised", noised)
    return found


@pytest.mark.unit
def test_each_request_is_one_release_with_coins_and_noise_of_its_own(monkeypatch, released):
    cohorts, plain = [], Privacy.cohort

    def cohort(self, ledger, ids):
        cohorts.append((ledger.releases, plain(self, ledger, ids)))
        return cohorts[-1][1]

    monkeypatch.setattr(Privacy, "cohort", cohort)
    states = run(method((0.0,) * USERS), noise())
    assert [number for number, _ in cohorts] == list(range(2 * ROUNDS)), "one coin for each release"
    assert len({tuple(one) for _, one in cohorts}) > ROUNDS, "requests of one round ask others"
    assert [state.ledger.releases for state in states] == [2, 4, 6]
    assert len({tuple(one.tolist()) for one in released}) == 2 * ROUNDS, "no noise is used twice"


@pytest.mark.equivalence
@pytest.mark.parametrize("killed_at", [1, 3])
def test_killed_between_two_requests_and_resumed_releases_nothing_twice(killed_at, monkeypatch, released, tmp_path):
    """Request 2·r + 1 is killed after request 2·r was released: both are the same again, and counted once."""
    whole = run(method(), noise())
    want, plain, calls = list(released), Release.noised, []
    released.clear()

    def stops(self, update, round_):
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        calls.append(round_)
        return plain(self, update, round_)

    with monkeypatch.context() as patch:
        patch.setattr(Release, "noised", stops)
        with pytest.raises(KeyboardInterrupt):
            run(method(), noise(), keep=tmp_path / "last")
    saved = load_checkpoint(tmp_path / "last", TwiceState)[0] if killed_at > 1 else None
    before = list(released)
    released.clear()
    states = run(method(), noise(), saved)
    again = killed_at // 2 * 2
    assert torch.equal(torch.stack(before), torch.stack(want[:killed_at]))
    assert torch.equal(torch.stack(released), torch.stack(want[again:])), "the same sums with the same noise"
    assert states[-1].ledger.releases == 2 * ROUNDS, "what was released twice as one and the same counts once"
    one, two = to_tensors(whole[-1].server), to_tensors(states[-1].server)
    assert all(torch.equal(leaf, two[name]) for name, leaf in one.items())


@pytest.mark.unit
def test_no_sum_is_released_that_the_noise_was_not_made_for(released):
    with pytest.raises(TrainingError, match="round 1: the noise was made for 3 sums, which were released"):
        run(method(), noise(releases=3))
    assert len(released) == 3


@pytest.mark.unit
@pytest.mark.parametrize("lengths", [(9.0, 1e-7, 1e-7, 1e-7, 1e-7, 0.4), (0.1, 0.2, 0.3, 0.1, 0.2, 0.3)])
@pytest.mark.parametrize("user", [0, 1, 5])
def test_one_user_more_changes_a_sum_by_the_clip_at_most(lengths, user, released):
    """Also where the others' changes are of quite another size: no median of theirs decides who counts."""
    left = [name for place, name in enumerate(names()) if place != user]
    mechanism = noise(1e-12, 1.0)
    run(method(lengths, rounds=1), mechanism)
    first = released[0].clone()
    released.clear()
    run(method(lengths, rounds=1), mechanism, users=left)
    moved = float((first - released[0]).norm())
    assert moved == pytest.approx(min(lengths[user], 0.5), rel=1e-3, abs=1e-6)


@pytest.mark.unit
def test_noise_has_the_variance_that_is_stated_and_follows_the_schedule_of_the_clip(released):
    """σ S C over the scale of the round: S is 1 with a fixed clip and no statistic."""
    for number in range(9):
        mechanism = replace(noise(0.7, 1e-12), key=Key.of_seed(number))
        run(method(scales=(1.0, 0.25, 0.5)), mechanism)
    found = torch.stack(released).reshape(-1, 2 * ROUNDS, WEIGHTS).double()
    for place, scale in enumerate((1.0, 1.0, 0.25, 0.25, 0.5, 0.5)):
        values = found[:, place].flatten()
        assert float(values.std()) == pytest.approx(0.7 * 0.5 * scale, rel=5 / (2 * len(values)) ** 0.5)
        assert abs(float(values.mean())) < 5 * 0.7 * 0.5 * scale / len(values) ** 0.5


@pytest.mark.unit
def test_clients_are_cut_by_the_schedule_too(released):
    run(method((0.0, 9.0), scales=(1.0, 0.25, 0.5)), noise(1e-12, 1.0))
    assert [round(float(one.norm()), 4) for one in released] == [0.5, 0.5, 0.125, 0.125, 0.25, 0.25]


@pytest.mark.unit
def test_what_each_client_sends_by_itself_is_refused_unless_it_is_kept():
    with pytest.raises(ConfigError, match="clients of 'twice' send note each by itself"):
        run(method(kept=False), noise())


@pytest.mark.unit
def test_the_clip_adapts_to_what_holds_without_the_schedule(tmp_path: Path):
    """Changes of 0.2 at scale 0.25 are as long as changes of 0.8: above the clip of 0.5, which then grows."""
    grown = run(method((0.2,) * USERS, scales=(0.25,) * 3, rounds=1), noise(1e-9, 1.0, clip="auto"))
    shrunk = run(method((0.2,) * USERS, rounds=1), noise(1e-9, 1.0, clip="auto"))
    assert float(grown[0].ledger.clips["all"]) > 0.5 > float(shrunk[0].ledger.clips["all"])
