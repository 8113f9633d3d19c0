from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from fedvpa.core.stacked import decode_each, encode_each, names_of, names_tensor
from fedvpa.core.tree import Tree

pytestmark = pytest.mark.unit

NAMES = ("anna", "", "é", "\ud83d", "\ud83d\ude00", "😀", "a\0b", "a.b\n", "anna")


def same(left: Tree, right: Tree) -> bool:
    return list(left) == list(right) and all(
        torch.equal(leaf.view(torch.uint8) if leaf.dim() else leaf, mine.view(torch.uint8) if mine.dim() else mine)
        and leaf.dtype == mine.dtype
        and leaf.shape == mine.shape
        for leaf, mine in zip(left.values(), right.values(), strict=True)
    )


@pytest.mark.parametrize("names", [NAMES, (), ("",), ("", "")])
def test_names_of_any_text_come_back(names):
    assert names_of(load(save(names_tensor(names)))) == names


def test_names_that_were_cut_are_refused():
    tensors = names_tensor(NAMES)
    with pytest.raises(ValueError, match="bytes"):
        names_of(tensors | {"bytes": tensors["bytes"][:-1]})


def values() -> dict[str, Tree]:
    """Leaves of equal shape, of unequal length, of unequal rank and kind, and leaves that not everybody has."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "b": {"mean": normal(3), "logits": normal(2, 5), "steps": torch.tensor(7), "odd": normal(2)},
        "\ud83d": {"mean": normal(3), "logits": normal(0, 5), "steps": torch.tensor(-(2**62)), "odd": normal(2, 3)},
        "a": {},
        "": {
            "mean": torch.tensor([float("nan"), float("inf"), -0.0]),
            "steps": torch.tensor(2**62),
            "late.é": normal(),
        },
        "z": {"mean": normal(3), "logits": normal(7, 5), "odd": torch.tensor([True, False])},
        "half": {"mean": normal(3).half(), "logits": normal(1, 4)},
    }


def test_the_trees_of_all_clients_come_back_bit_for_bit_and_in_order():
    before = values()
    tensors = encode_each(before)
    after = decode_each(load(save(tensors)))
    assert list(after) == list(before)
    for name, tree in before.items():
        assert same(tree, after[name]), name
    assert all("\ud83d" not in name and "é" not in name for name in tensors)


@pytest.mark.parametrize("before", [{}, {"a": {}}, {"a": {}, "b": {}}])
def test_nobody_and_nothing_come_back(before):
    assert decode_each(load(save(encode_each(before)))) == before


def test_the_number_of_tensors_does_not_grow_with_the_clients():
    few, many = (
        encode_each({f"client-{n}": {"a": torch.ones(2), "b": torch.ones(n % 3)} for n in range(count)})
        for count in (5, 500)
    )
    assert few.keys() == many.keys()


def test_what_is_decoded_shares_no_memory():
    after = decode_each(encode_each({"a": {"x": torch.zeros(3)}, "b": {"x": torch.zeros(3)}}))
    after["a"]["x"] += 1
    assert after["b"]["x"].sum() == 0
    assert after["a"]["x"].untyped_storage().data_ptr() != after["b"]["x"].untyped_storage().data_ptr()
