from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedvpa.core.tree import below
from fedvpa.privacy.mechanism import Shape, adapted, bounded, is_told, noised, part_of, shortened

SHAPE = Shape({"scores": 1.0, "curvature": 0.3}, {"members": 1.0, "loss": 2.0}, 0.5, adaptive=True)
CLIPS = {"scores": torch.tensor(2.0), "curvature": torch.tensor(5.0)}


def sums(scale: float, weight: float, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.tensor(weight),
        "delta.scores": weight * scale * torch.randn(3, 4, generator=draw),
        "delta.curvature.a": weight * scale * torch.randn(2, generator=draw),
        "members": weight * torch.randn(3, generator=draw).softmax(0),
        "loss": scale * torch.randn((), generator=draw),
        "secret": torch.ones(()),
    }


def joint(update: dict[str, torch.Tensor]) -> float:
    """The norm of one client's vector, in units in which noise has deviation σ S."""
    deviations = SHAPE.deviations(CLIPS, 1.0)
    parts = [update["delta.scores"] / deviations["scores"], update["delta.curvature.a"] / deviations["curvature"]]
    parts += [update[name] / deviations[name] for name in SHAPE.statistics]
    return float(torch.cat([part.flatten() for part in parts]).norm()) * SHAPE.sensitivity


@pytest.mark.unit
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("weight", [1.0, 40.0])
def test_no_client_moves_the_sum_by_more_than_the_sensitivity(scale: float, weight: float):
    told = SHAPE.told(CLIPS)
    assert is_told(told)
    update = bounded(sums(scale, weight), told, frozenset({"members"}))
    assert update["weight"] == 1, "however many pairs it holds"
    assert "secret" not in update, "what has no limit stays"
    assert joint(update) <= SHAPE.sensitivity * (1 + 1e-6)
    assert math.isclose(SHAPE.sensitivity, math.sqrt(1 + 0.3**2 + 0.5**2))
    within = {part: float(bit) for part, bit in below("privacy.within", update).items()}
    assert within == ({"scores": 0.5, "curvature": 0.5} if scale == 1e-3 else within)
    assert within["scores"] == (-0.5 if scale == 1e6 else within["scores"])


@pytest.mark.unit
def test_the_bound_is_reached():
    """The noise is not larger than it has to be: an update at every limit has the length S."""
    told = SHAPE.told(CLIPS)
    update = bounded(sums(1e6, 1.0) | {"members": torch.tensor([9.0, 0, 0])}, told, frozenset())
    assert joint(update) == pytest.approx(SHAPE.sensitivity, rel=1e-5)


@pytest.mark.unit
def test_short_updates_are_means_and_a_client_without_pairs_adds_nothing():
    told, plain = SHAPE.told(CLIPS), sums(1e-3, 40.0)
    update = bounded(plain, told, frozenset({"members"}))
    torch.testing.assert_close(update["delta.scores"], plain["delta.scores"] / 40)
    torch.testing.assert_close(update["members"], plain["members"] / 40)
    torch.testing.assert_close(update["loss"], plain["loss"])
    empty = bounded({name: torch.zeros_like(leaf) for name, leaf in plain.items()}, told, frozenset())
    assert not any(bool(leaf.any()) for leaf in empty.values())


@pytest.mark.unit
def test_the_server_shortens_what_a_node_sends_to_what_its_clients_can_send():
    told = SHAPE.told(CLIPS)
    liar = {**bounded(sums(1.0, 1.0), told, frozenset()), "delta.scores": torch.full((3, 4), 1e5)}
    assert shortened(liar, told)["delta.scores"].norm() == pytest.approx(2.0)
    assert shortened(liar, told, 3)["delta.scores"].norm() == pytest.approx(6.0)


@pytest.mark.unit
def test_noise_has_the_deviation_that_the_accountant_counts_on():
    big = {"weight": torch.tensor(1.0), "delta.scores": torch.full((200, 200), 3.0), "members": torch.zeros(100, 100)}
    found = noised(big, SHAPE, CLIPS, 1.5, np.random.default_rng(0))
    expected = SHAPE.deviations(CLIPS, 1.5)
    assert expected["scores"] == pytest.approx(1.5 * SHAPE.sensitivity * 2.0 / 1.0)
    assert expected["members"] == pytest.approx(1.5 * SHAPE.sensitivity * 1.0 * math.sqrt(4) / 0.5)
    for name, part in (("delta.scores", "scores"), ("members", "members")):
        noise = found[name] - big[name]
        assert noise.std() == pytest.approx(expected[part], rel=4 / math.sqrt(2 * noise.numel()))
        assert abs(noise.mean()) < 4 * expected[part] / math.sqrt(noise.numel())
    assert "weight" not in found


@pytest.mark.unit
def test_clips_follow_the_quantile():
    clips = {"all": torch.tensor(1.0)}
    norms = np.random.default_rng(0).lognormal(1.0, 0.5, 500)
    for _ in range(60):
        bits = torch.tensor(float(np.where(norms <= float(clips["all"]), 0.5, -0.5).sum()))
        clips = adapted(clips, {"privacy.within.all": bits}, 500, 0.5, 0.2)
    assert float(clips["all"]) == pytest.approx(float(np.median(norms)), rel=0.1)


@pytest.mark.unit
def test_what_belongs_to_no_part_is_an_error():
    assert part_of("scores", CLIPS) == "scores"
    assert part_of("curvature.a", CLIPS) == "curvature"
    assert part_of("anything", {"all": 1.0}) == "all"
    with pytest.raises(KeyError):
        part_of("scoresheet", CLIPS)
