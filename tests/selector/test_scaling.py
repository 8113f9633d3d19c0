"""Scaling: every layer of one norm, and the basis in which differences of responses are uncorrelated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import make_federation
from fedvpa.core.errors import ConfigError, DataError
from fedvpa.engines.federation import federate
from fedvpa.features.standardise import Moments, Standardiser
from fedvpa.selector import rotation as rotation_module
from fedvpa.selector.config import SelectorConfig
from fedvpa.selector.rotation import contributors, rotation_of, second_moment
from fedvpa.selector.scaling import BESIDE, Scaling

N, D = 31, 7


def raw(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((N, D)) * rng.uniform(0.1, 90, D) + rng.normal(size=D) * 5


def scaling(blocks: tuple[int, ...], *, rms: bool = True) -> Scaling:
    return Scaling(Standardiser.from_moments(Moments.of(raw())), rms, blocks=blocks)


@pytest.mark.unit
def test_each_layer_is_brought_to_rms_1_on_its_own_and_what_is_no_layer_is_left():
    plain, scaled = scaling((), rms=False)(raw()), scaling((2, 3))(raw())
    for part in (slice(0, 2), slice(2, 5)):
        torch.testing.assert_close(scaled[:, part].square().mean(-1), torch.ones(N))
        alone = plain[:, part] / plain[:, part].square().mean(-1, keepdim=True).sqrt()
        torch.testing.assert_close(scaled[:, part], alone)
    torch.testing.assert_close(scaled[:, 5:], BESIDE * plain[:, 5:])


@pytest.mark.unit
def test_one_layer_named_or_not_is_the_same_bit_for_bit():
    assert torch.equal(scaling(())(raw()), scaling((D,))(raw()))


@pytest.mark.unit
@pytest.mark.parametrize("blocks", [(), (2, 3)])
def test_exact_is_the_same_in_float64_and_not_turned(blocks):
    exact = scaling(blocks).exact(raw())
    assert exact.dtype == np.float64
    np.testing.assert_allclose(exact, scaling(blocks)(raw()).numpy(), atol=1e-6)
    turned = replace(scaling(blocks), rotation=np.eye(D, 3, dtype=np.float32))
    np.testing.assert_array_equal(turned.exact(raw()), exact)
    torch.testing.assert_close(turned(raw()), torch.from_numpy(exact[:, :3]).float())
    assert (turned.dimension, scaling(blocks).dimension) == (3, D)


@pytest.mark.unit
def test_the_rotation_makes_the_second_moment_of_differences_diagonal_in_falling_order():
    federation, turned = federations("full")
    basis = turned.scaling.rotation.astype(np.float64)
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-6)
    moment = federation.second_moment(federation.client_ids)
    diagonal = basis.T @ moment @ basis
    np.testing.assert_allclose(diagonal, np.diag(np.linalg.eigvalsh(moment)[::-1]), atol=1e-5 * moment.trace())
    name = federation.client_ids[0]
    plain, seen = federation.held(name), turned.held(name)
    torch.testing.assert_close(seen.delta, plain.delta @ torch.from_numpy(turned.scaling.rotation))
    together = turned.cohort([name, federation.client_ids[1]], "train")
    torch.testing.assert_close(together.chosen[0, : len(seen.weight)], seen.chosen)
    assert turned.dimension == federation.dimension


@pytest.mark.unit
def test_a_number_keeps_the_leading_directions():
    _, whole = federations("full")
    _, some = federations(2)
    np.testing.assert_array_equal(some.scaling.rotation, whole.scaling.rotation[:, :2])
    assert some.setting.dimension == some.dimension == 2
    assert some.held(some.client_ids[0]).chosen.shape[-1] == 2


@pytest.mark.unit
def test_clients_add_up_and_a_weight_of_two_is_the_pair_twice():
    first, second, weight = raw(1), raw(2), np.array([2.0, *[1.0] * (N - 1)])
    twice = second_moment(*(np.concatenate([side[:1], side]) for side in (first, second)), np.ones(N + 1))
    np.testing.assert_allclose(second_moment(first, second, weight), twice)
    parts = [second_moment(first[rows], second[rows], weight[rows]) for rows in (slice(0, 9), slice(9, N))]
    np.testing.assert_allclose(sum(parts), twice)


@pytest.mark.unit
def test_signs_and_rank_do_not_depend_on_rounding():
    """Machines that add in another order agree, where nobody's responses differ too."""
    rng = np.random.default_rng(4)
    difference = rng.standard_normal((N, 4)) @ rng.standard_normal((4, D))  # varies in 4 of 7 directions
    moment = difference.T @ difference
    noise = 1e-14 * moment.trace() * rng.standard_normal((D, D))
    basis, again = (rotation_of(each, "full") for each in (moment, moment + noise))
    assert basis.shape == (D, 4)
    np.testing.assert_allclose(basis, again, atol=1e-5)
    assert (np.cos(np.arange(1, D + 1)) @ basis > 0).all()
    assert rotation_of(moment, 6).shape == (D, 4)


@pytest.mark.unit
def test_so_many_clients_contribute_whoever_else_is_there(monkeypatch):
    monkeypatch.setattr(rotation_module, "MOST_CLIENTS", 3)
    names = [f"client-{number}" for number in range(11)]
    chosen = contributors(names)
    assert len(chosen) == 3
    assert contributors(names[::-1]) == chosen
    others = [name for name in names if name not in chosen]
    assert contributors([*chosen, *others[:2]]) == chosen
    assert all(len(set(contributors([*names, new])) & set(chosen)) >= 2 for new in "abcdefg")
    federation, turned = federations("full")
    some = federation.second_moment(contributors(federation.client_ids))
    np.testing.assert_array_equal(turned.scaling.rotation, rotation_of(some, "full"))
    assert not np.allclose(some, federation.second_moment(federation.client_ids))


@pytest.mark.unit
def test_what_is_no_layer_stays_beside_the_turned_directions():
    root = np.random.default_rng(2).normal(size=(D, D))
    turned, alone = rotation_of(root @ root.T, 3, 2), rotation_of((root @ root.T)[:-2, :-2], 3)
    assert turned is not None
    assert alone is not None
    np.testing.assert_array_equal(turned[:-2, :3], alone)
    np.testing.assert_array_equal(turned[-2:, 3:], np.eye(2))
    assert not turned[-2:, :3].any()
    assert not turned[:-2, 3:].any()
    assert rotation_of(np.eye(D), D + 1).shape == (D, D), "at most as many as there are"


@pytest.mark.unit
def test_a_rotation_that_cannot_be_is_one_message():
    with pytest.raises(DataError, match=r"no rotation.*selector\.rotation=none"):
        rotation_of(np.zeros((D, D)), "full")
    for given in ("half", 0, 1.5):
        with pytest.raises(ConfigError, match=r"'selector\.rotation': .* is no rotation"):
            SelectorConfig.parse({"rotation": given}, "selector")


def federations(rotation):
    """Clients with and without a rotation."""
    plain = make_federation()
    return plain, federate(plain.store, plain.partition, rms=True, rotation=rotation)
