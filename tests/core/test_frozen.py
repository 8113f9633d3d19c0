from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import pytest
import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from fedvpa.core.frozen import from_tensors, to_tensors
from fedvpa.core.tree import Tree

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Inner:
    tensor: Tensor
    steps: int = 3
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Everything:
    params: Tree
    inner: Inner
    tensor: Tensor
    shaped: Float[Tensor, "*any k"]
    whole: int
    real: float
    yes: bool
    text: str
    words: tuple[str, ...]
    by_client: Mapping[str, Tensor]
    trees: Mapping[str, Tree]
    inners: Mapping[str, Inner]
    scalars: Mapping[str, float]
    nothing: Inner | None = None
    something: Inner | None = None
    empty: Tree | None = None
    maybe: int | None = None
    defaults: Tree = field(default_factory=dict)


def everything() -> Everything:
    return Everything(
        params={"a.weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor(float("nan")), "": torch.ones(1)},
        inner=Inner(torch.tensor([1, 2]), -5, ("x", "\ud83d")),
        tensor=torch.tensor(1.5, dtype=torch.bfloat16),
        shaped=torch.ones(2, 3),
        whole=2**63 - 1,
        real=0.1,
        yes=True,
        text="\ud83d é",
        words=("", "a"),
        by_client={"\ud83d": torch.zeros(2), "a": torch.zeros(5), "": torch.zeros(0)},
        trees={"z": {"x": torch.ones(2)}, "a": {}},
        inners={"z": Inner(torch.ones(2)), "a": Inner(torch.ones(3), 4, ("w",))},
        scalars={"b": -0.0, "a": 1e-300},
        something=Inner(torch.ones(0)),
        empty={},
        maybe=0,
    )


def equal(left: object, right: object) -> bool:
    """Bit for bit, with the order of keys."""
    if isinstance(left, Tensor):
        assert isinstance(right, Tensor)
        alike = left.dtype == right.dtype and left.shape == right.shape
        return alike and torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8))
    if isinstance(left, dict):
        assert isinstance(right, dict)
        return list(left) == list(right) and all(equal(value, right[key]) for key, value in left.items())
    if isinstance(left, Inner | Everything):
        assert type(left) is type(right)
        return all(equal(getattr(left, entry.name), getattr(right, entry.name)) for entry in fields(left))
    return type(left) is type(right) and repr(left) == repr(right)


def test_every_kind_of_field_comes_back_bit_for_bit():
    before = everything()
    tensors = to_tensors(before)
    assert equal(before, from_tensors(Everything, load(save(tensors))))
    assert set(tensors) >= {"params.a.weight", "inner.tensor", "whole", "words.lengths"}


def test_what_is_missing_or_too_much_is_refused():
    tensors = to_tensors(everything())
    with pytest.raises(ValueError, match=r"Inner.*'steps'"):
        from_tensors(Everything, {name: leaf for name, leaf in tensors.items() if name != "inner.steps"})
    with pytest.raises(ValueError, match=r"2 leaves.*3"):
        from_tensors(Everything, {name: leaf for name, leaf in tensors.items() if name != "params.bias"})
    with pytest.raises(ValueError, match=r"Inner.*'params'"):
        from_tensors(Inner, to_tensors(everything().inner) | {"params.x": torch.ones(1)})


@dataclass(frozen=True)
class Odd:
    when: complex


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Odd(1j), "Odd.when.*complex"),
        (Inner(torch.ones(1), 1.5), "Inner.steps.*int.*1.5"),
        (Inner(torch.ones(1), True), "Inner.steps.*int.*True"),
        (Inner(torch.ones(1), 2**63), "Inner.steps.*64"),
        (Inner(None), "Inner.tensor.*None"),
        (Inner(torch.ones(1), 3, ["a"]), "Inner.words"),
    ],
)
def test_what_cannot_be_held_is_refused(value, said):
    with pytest.raises(TypeError, match=said):
        to_tensors(value)
