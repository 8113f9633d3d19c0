"""Noise in shares: what one client may add in integers, how much noise stays, and that 32 bits hold both."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.privacy.discreteness import KERNEL, counted
from fedvpa.privacy.mechanism import Shape
from fedvpa.privacy.quantised import restored
from fedvpa.privacy.shares import FEWEST_STEPS, LARGEST, TAILS, Shares, sized, within
from fedvpa.privacy.thresholds import honest_of, threshold_of

SHAPE = Shape({"scores": 1.0, "curvature": 0.3}, {"members": 1.0}, 0.5, adaptive=True)
CLIPS = {"scores": torch.tensor(2.0), "curvature": torch.tensor(5.0)}
SIGMA, B = 1.3, 5000
SHAPES = {
    "delta.scores": (3, 5),
    "delta.curvature.a": (7,),
    "members": (2,),
    "privacy.within.scores": (),
    "privacy.within.curvature": (),
}
PART = {"delta.scores": "scores", "delta.curvature.a": "curvature"}
DEVIATIONS = SHAPE.deviations(CLIPS, SIGMA)
SHARES = Shares({name: DEVIATIONS[PART.get(name, name)] / counted(B) for name in SHAPES}, SHAPES, B, 1.0)


def update(scale: float, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"weight": torch.tensor(1.0), "secret": torch.ones(3)} | {
        name: scale * torch.randn(shape, generator=draw) for name, shape in SHAPES.items()
    }


@pytest.mark.unit
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e9])
def test_no_client_moves_the_integers_by_more_than_noise_of_the_multiplier_hides(scale: float):
    """The whole vector of integers has norm B/σ at most: h nodes' noise of deviation B has multiplier σ."""
    for seed in range(20):
        found = SHARES.rounded(update(scale, seed), SHAPE.told(CLIPS))
        length = math.sqrt(int(found @ found))
        assert length <= counted(B) / SIGMA
        if scale == 1e9:
            assert length > 0.99 * counted(B) / SIGMA, "and the clip is not wasted"
    assert len(found) == sum(math.prod(shape) for shape in SHAPES.values()), "nothing else leaves: no weight"


@pytest.mark.unit
def test_roundings_are_within_the_clip_where_they_are_longest():
    """All values at a half: to the nearest integers the vector would be √2 times as long."""
    longest, half = math.sqrt(100) * 0.5, np.full(100, 0.5 - 1e-12)
    with pytest.raises(DataError, match="rounding takes all of it"):
        within(half, longest)
    for seed in range(50):
        values = np.random.default_rng(seed).normal(size=300) * 40
        found = within(values, 500.0)
        assert int(found @ found) <= 500**2
        assert np.linalg.norm(values) < 490 or np.linalg.norm(np.rint(values)) > 500 or int(found @ found) > 480**2


@pytest.mark.unit
def test_short_updates_are_rounded_to_the_nearest_and_others_count_as_none(capsys):
    plain = update(1e-2)
    found = SHARES.rounded(plain, SHAPE.told(CLIPS))
    start = 0
    for name in SHARES.narrow:
        size = math.prod(SHAPES[name])
        np.testing.assert_array_equal(
            found[start : start + size], np.rint(plain[name].flatten().double().numpy() / SHARES.step(name))
        )
        start += size
    assert not capsys.readouterr().err
    plain["delta.scores"][1, 2] = float("nan")
    assert not SHARES.rounded(plain, SHAPE.told(CLIPS)).any()
    assert "only noise is sent" in capsys.readouterr().err
    del plain["members"]
    with pytest.raises(DataError, match="has no members"):
        SHARES.rounded(plain, SHAPE.told(CLIPS))


@pytest.mark.unit
@pytest.mark.parametrize("nodes", [3, 4, 7, 10, 100, 1001])
@pytest.mark.parametrize("share", [1.0, 0.5, 1e-3])
def test_the_honest_of_those_that_must_stay_have_enough_noise_and_it_is_no_more_than_must_be(nodes: int, share: float):
    threshold = threshold_of(nodes, 2 / 3)
    honest = honest_of(threshold, share)
    assert 1 <= honest <= threshold - 1, "a node knows its own noise"
    assert honest == threshold - 1 or honest <= share * threshold + 1
    one = Shares({}, {}, B, share).node_deviation(threshold)
    assert honest * one**2 >= B**2
    assert honest * (one - 1) ** 2 < B**2


@pytest.mark.reference
def test_the_variance_of_a_sum_is_that_of_the_nodes_that_stay():
    """At least (σ S)² in the units of the mechanism, with drop-outs and without; within 5 standard errors."""
    threshold, size = threshold_of(10, 2 / 3), 20_000
    shares = Shares({"delta.w": DEVIATIONS["scores"] / counted(B)}, {"delta.w": (size,)}, B, 1.0)
    random = np.random.default_rng(3).bytes
    vectors = [shares.noised([], SHAPE.told(CLIPS), threshold, random) for _ in range(10)]
    for stay in (10, threshold, threshold - 1):
        total = vectors[0]
        for one in vectors[1:stay]:
            total = total + one
        found = float((restored(shares, total)["delta.w"].double() ** 2).mean())
        wanted = stay * (shares.node_deviation(threshold) * shares.step("delta.w")) ** 2
        assert abs(found / wanted - 1) < 5 * math.sqrt(2 / size)
        assert wanted >= DEVIATIONS["scores"] ** 2, "as much as the server would add"


@pytest.mark.unit
def test_what_comes_out_is_the_sum_and_the_noise_in_integers():
    told, clients = SHAPE.told(CLIPS), [[update(1.0, 1), update(0.1, 2)], [update(3.0, 3)], []]
    total = sum((SHARES.rounded(one, told) for node in clients for one in node), np.zeros(26, np.int64))
    words, noise = None, np.zeros(26, np.int64)
    for seed, node in enumerate(clients):
        alone = SHARES.noised([], told, 3, np.random.default_rng(seed).bytes).narrow.view(np.int32)
        noise += alone
        assert alone.any()
        sent = SHARES.noised(node, told, 3, np.random.default_rng(seed).bytes)
        words = sent if words is None else words + sent
    np.testing.assert_array_equal(words.narrow.view(np.int32), total + noise)
    assert len(words.wide) == 0


@pytest.mark.unit
def test_32_bits_hold_all_clients_at_their_longest_and_the_noise():
    reaches = {"w": (1 / SIGMA, 10_000), "bit": (0.2 / SIGMA, 1)}
    for clients, nodes in ((10, 10), (1000, 1000), (1000, 4)):
        found = sized(reaches, clients, nodes, 100.0, 2 / 3, 1.0)
        most = clients * found.deviation / SIGMA + TAILS * math.sqrt(found.variance)
        assert 0.9 * LARGEST < most <= LARGEST or found.deviation == 2**24
        assert found.least == min(nodes, 50)
        shares = Shares({}, {}, found.deviation, 1.0)
        for count in range(found.least, nodes + 1):
            of_nodes = count * shares.node_deviation(threshold_of(count, 2 / 3)) ** 2
            assert found.variance - of_nodes >= 2 * KERNEL**2, "the server adds to it in every round"
            total = found.missing(of_nodes) ** 2 + of_nodes / counted(found.deviation) ** 2
            assert total == pytest.approx(found.times**2, rel=1e-9), "all noise together is always as large"
    assert 1.2 < sized(reaches, 1000, 1000, 100.0, 2 / 3, 1.0).times < 1.3
    assert sized(reaches, 10, 10, 3.0, 2 / 3, 1.0).times == pytest.approx(math.sqrt(2), rel=1e-3)
    assert sized(reaches, 10, 10, 10.0, 2 / 3, 0.5).times == pytest.approx(math.sqrt(7 / 2), rel=1e-3)


@pytest.mark.unit
def test_what_32_bits_cannot_hold_is_said():
    with pytest.raises(
        ConfigError, match=rf"steps of integers of 32 bits, with 100,000,000 clients, and {FEWEST_STEPS}"
    ):
        sized({"w": (1 / SIGMA, 10)}, 100_000_000, 10, 10.0, 2 / 3, 1.0)
    with pytest.raises(ConfigError, match=r"rounding .* takes more than 10% of what a client may send of 'w'"):
        sized({"w": (1e-6, 10**9)}, 100, 100, 10.0, 2 / 3, 1.0)
