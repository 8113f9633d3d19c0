import dataclasses
import pkgutil
import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

import fedvpa
from fedvpa.core.short_repr import short_repr

HOLDS_TENSORS = re.compile(r"Tensor|ndarray|NDArray|Ids\b|Tree\b|Posterior|Gaussian")


@dataclass(frozen=True, repr=False)
class Holder:
    weights: torch.Tensor
    rows: Any
    names: Any
    text: str = "short"

    __repr__ = short_repr


@pytest.mark.unit
def test_tensors_are_shapes_and_long_things_are_counts():
    found = repr(Holder(torch.zeros(7, 3), np.zeros((2, 5), np.int32), {f"w{n}": n for n in range(11)}, "a" * 99))
    assert found == f"Holder(weights=float32[7, 3], rows=int32[2, 5], names={{11 entries}}, text='{'a' * 59}…')"
    nested = repr(Holder(torch.ones(1), [torch.zeros(2)] * 2, ("a",) * 9))
    assert nested == "Holder(weights=float32[1], rows=[float32[2], float32[2]], names=[9 items], text='short')"
    assert repr(Holder(torch.ones(1), {"a": 1}, Holder(torch.ones(1), 1, 2))) == (
        "Holder(weights=float32[1], rows={'a': 1}, names=Holder(…), text='short')"
    )


@pytest.mark.unit
def test_every_data_class_with_tensors_has_a_short_repr():
    long = []
    for found in pkgutil.walk_packages(fedvpa.__path__, "fedvpa."):
        if "__main__" in found.name or ".flower" in found.name or found.name.startswith("fedvpa.deployment"):
            continue  # needs the extra fedvpa[flower]
        for kind in vars(import_module(found.name)).values():
            if not isinstance(kind, type) or not dataclasses.is_dataclass(kind) or kind.__module__ != found.name:
                continue
            holds = any(
                HOLDS_TENSORS.search(str(field.type)) and "Callable" not in str(field.type)
                for field in dataclasses.fields(kind)
            )
            if holds and kind.__repr__ is not short_repr:
                long.append(f"{found.name}.{kind.__name__}")
    assert not long
