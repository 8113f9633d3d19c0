"""Products by oneDNN are torch's, with their gradients; and they are used where they are faster, and only there."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fedvpa.models import products
from fedvpa.models.products import OneDNNLinear, maker, onednn_is_faster, product, use_fast_products

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def leaf(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@needs_onednn
@pytest.mark.equivalence
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (0, 5)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_are_those_of_torch(shape: tuple[int, ...], with_bias: bool):
    given = [leaf(*shape), leaf(11, 5, seed=1), leaf(11, seed=2) if with_bias else None]
    above = torch.randn(*shape[:-1], 11, generator=torch.Generator().manual_seed(3))
    leaves = [one for one in given if one is not None]
    ours, theirs = product(*given), nn.functional.linear(*given)
    torch.testing.assert_close(ours, theirs)
    found = torch.autograd.grad(ours, leaves, above)
    for one, other in zip(found, torch.autograd.grad(theirs, leaves, above), strict=True):
        torch.testing.assert_close(one, other)


@needs_onednn
@pytest.mark.unit
def test_a_frozen_weight_passes_the_gradient_on_and_gets_none():
    states, weight = leaf(3, 5), leaf(7, 5, seed=1).detach()
    product(states, weight).sum().backward()
    torch.testing.assert_close(states.grad, weight.sum(0).expand(3, 5))
    assert weight.grad is None


@needs_onednn
@pytest.mark.unit
def test_large_layers_change_and_stay_linear_layers(monkeypatch):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)
    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 3), nn.Linear(256, 256).bfloat16())
    before = copy.deepcopy(model)
    assert use_fast_products(model) == 1
    assert [type(layer) for layer in model] == [OneDNNLinear, nn.Linear, nn.Linear]
    assert isinstance(model[0], nn.Linear)
    states = leaf(5, 256).detach()
    torch.testing.assert_close(model[0](states), before[0](states))
    assert model[0].bfloat16()(states.bfloat16()).dtype == torch.bfloat16, "in another precision it is torch's"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("who", "capability", "expected"),
    [("AuthenticAMD", "AVX512", True), ("GenuineIntel", "AVX512", False), ("AuthenticAMD", "AVX2", False)],
)
def test_the_library_is_chosen_by_the_processor(monkeypatch, tmp_path, who: str, capability: str, expected: bool):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nvendor_id\t: {who}\nmodel name\t: X\n")
    monkeypatch.setattr(products, "PROCESSOR", file)
    monkeypatch.setattr(products, "_works", lambda: True)
    for library in (torch.backends.mkl, torch.backends.mkldnn):
        monkeypatch.setattr(library, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert maker() == who
    assert onednn_is_faster.__wrapped__() is expected
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert onednn_is_faster.__wrapped__() is False


@pytest.mark.unit
def test_a_library_that_cannot_be_used_is_said(monkeypatch, capsys):
    monkeypatch.setattr(products, "_onednn", lambda *_: torch.zeros(2, 4))
    assert products._works() is False
    assert "wrong on this machine" in capsys.readouterr().err

    def absent(*_: object) -> None:
        raise AttributeError

    monkeypatch.setattr(products, "_onednn", absent)
    assert products._works() is False
    assert "cannot be used (AttributeError)" in capsys.readouterr().err
