"""What DPO reads: tokens of prompt, chosen and rejected response, reference log-probabilities, z."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from fedvpa.core.short_repr import short_repr
from fedvpa.policy.rows import Flags, Ids

SURE = 0.9
"""A token that the reference gives at least this probability is its language rather than a choice. Chosen by us."""


@dataclass(frozen=True, repr=False)
class Examples:
    """What DPO reads: prompt, preferred and other response, reference log-probabilities, z.

    Attributes:
        prompts: Tokens.
        chosen: Tokens.
        rejected: Tokens.
        reference: Log-probabilities of chosen and rejected under the reference, in nats, shape [n, 2].
        sure: Which tokens of chosen and rejected the reference was sure of (p ≥ ``SURE``).
        z: Latents, shape [n, k]; None for a policy without z.
        prototype: For the logs, and for balance; shape [n].
    """

    prompts: list[Ids]
    chosen: list[Ids]
    rejected: list[Ids]
    reference: Float[Tensor, "n 2"]
    sure: list[tuple[Flags, Flags]]
    z: Float[Tensor, "n k"] | None
    prototype: Int[Tensor, " n"]

    __repr__ = short_repr

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Sequence[int]) -> Examples:
        """Some of them."""
        index = torch.as_tensor(list(rows), dtype=torch.long)
        return Examples(
            [self.prompts[row] for row in rows],
            [self.chosen[row] for row in rows],
            [self.rejected[row] for row in rows],
            self.reference[index],
            [self.sure[row] for row in rows],
            None if self.z is None else self.z[index],
            self.prototype[index],
        )

    def width(self) -> Int[np.ndarray, " n"]:
        """Tokens of the longer of each example's two rows."""
        return np.array(
            [
                len(prompt) + max(len(chosen), len(rejected))
                for prompt, chosen, rejected in zip(self.prompts, self.chosen, self.rejected, strict=True)
            ]
        )

    def packed(self) -> Int[np.ndarray, " n"]:
        """Tokens of each example with its prompt once."""
        return np.array([sum(map(len, one)) for one in zip(self.prompts, self.chosen, self.rejected, strict=True)])


def reference_of(
    told: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> tuple[Float[Tensor, "n 2"], list[tuple[Flags, Flags]]]:
    """Sums of the reference's token log-probabilities of chosen and rejected, and which tokens it was sure of."""
    sums = torch.tensor([[float(good.sum()), float(bad.sum())] for good, bad in told]).view(-1, 2)
    return sums, [(good >= math.log(SURE), bad >= math.log(SURE)) for good, bad in told]
