"""Canaries: as long as a client may be and no longer, secret, and found by who knows everything but their coins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedvpa.core.errors import ConfigError
from fedvpa.core.tree import below
from fedvpa.privacy.audit import auc_of
from fedvpa.privacy.canaries import Canaries, check_size
from fedvpa.privacy.config import PrivacyConfig
from fedvpa.privacy.keyed import Key
from fedvpa.privacy.mechanism import Shape

SHAPE = Shape({"a": 1.0, "b": 0.5}, {"own": 3.0}, 0.3, adaptive=True)
CLIPS = {"a": torch.tensor(0.2), "b": torch.tensor(4.0)}
NOTHING = {
    "weight": torch.zeros(()),
    "delta.a": torch.zeros(30),
    "delta.b.x": torch.zeros(20, 10),
    "own": torch.zeros(2),
    "privacy.within.a": torch.zeros(()),
    "privacy.within.b": torch.zeros(()),
}


def canaries(count: int = 40, rate: float = 0.5, seed: int = 1) -> Canaries:
    return Canaries(Key.of_seed(seed), count, rate, {"a": (30,), "b.x": (20, 10)}, SHAPE.parts)


@pytest.mark.unit
def test_a_canary_is_at_the_clip_in_each_part_and_nowhere_else():
    update = canaries().update(3, CLIPS, NOTHING, SHAPE.told(CLIPS))
    assert float(update["delta.a"].norm()) == pytest.approx(0.2, rel=1e-5)
    assert float(update["delta.b.x"].norm()) == pytest.approx(4.0, rel=1e-5)
    assert not update["own"].any()
    assert not update["privacy.within.a"].any()


@pytest.mark.unit
def test_coins_are_fair_and_of_the_key_alone():
    one = canaries(2000)
    assert 0.45 < one.planted.mean() < 0.55
    assert (one.planted == canaries(2000).planted).all()
    assert (one.planted != canaries(2000, seed=2).planted).any()
    assert one.asked(3) != one.asked(4)
    assert 0.4 < len(one.asked(3)) / 2000 < 0.6
    assert not torch.equal(one.direction(0)["a"], one.direction(1)["a"])


@pytest.mark.unit
def test_the_planted_that_take_part_join_the_sum():
    some = canaries()
    sums = {name: torch.ones_like(leaf) for name, leaf in NOTHING.items()}
    joined = some.joined(2, sums, CLIPS, SHAPE.told(CLIPS))
    there = [row for row in some.asked(2) if some.planted[row]]
    assert there
    expected = 1 + sum(0.2 * some.direction(row)["a"] for row in there)
    torch.testing.assert_close(joined["delta.a"], expected)
    assert torch.equal(joined["own"], sums["own"])


@pytest.mark.unit
@pytest.mark.parametrize("deviation", [1e-6, 0.2, 1e3])
def test_scores_tell_the_planted_apart_unless_noise_hides_them(deviation: float):
    some, known = canaries(), {}
    generator = torch.Generator().manual_seed(0)
    for round_ in range(8):
        joined = below("delta", some.joined(round_, NOTHING, CLIPS, SHAPE.told(CLIPS)))
        units = {"a": 0.2, "b.x": 4.0 / 0.5}
        drawn = {name: torch.randn(leaf.shape, generator=generator) * deviation for name, leaf in joined.items()}
        excess = {name: leaf + drawn[name] * units[name] for name, leaf in joined.items()}
        known = some.evidence(known, round_, excess, CLIPS)
    assert known["rounds"].sum() == sum(len(some.asked(round_)) for round_ in range(8))
    for scores in (some.released_scores(known, 8, deviation), some.server_scores(known, deviation)):
        found = auc_of(scores[some.planted], scores[~some.planted])
        assert np.isfinite(scores).all()
        assert found > 0.9 if deviation <= 1 else 0.2 < found < 0.8


@pytest.mark.unit
def test_wrong_settings_are_one_message():
    with pytest.raises(ConfigError, match="noise_multiplier=1e-6"):
        PrivacyConfig.parse({"canaries": 5}, "privacy")
    with pytest.raises(ConfigError, match="for an audit"):
        PrivacyConfig(canaries=5, epsilon=1.0).check_no_canaries("a deployment")
    wide = Canaries(Key.of_seed(1), 1000, 0.5, {"a": (1 << 20,)}, {"a": 1.0})
    with pytest.raises(ConfigError, match="Give 128 at most"):
        check_size(wide)
