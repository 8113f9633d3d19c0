"""What a number in a configuration may be: only values that float32 and sampling can carry, by one rule for all keys.

float32 holds 1e-38 … 3e38 with seven digits. Training multiplies and squares what it is given (norms, second moments),
so a number far from 1 passes a check such as "positive" and then overflows, or vanishes without a word. NaN and
infinity are refused for every key, in :class:`fedvpa.core.config.Config`. The bounds are chosen by us, and wide: they
keep out what cannot work, not what works badly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from fedvpa.core.errors import ConfigError


@dataclass(frozen=True)
class Between:
    """A check that a number lies within bounds.

    Attributes:
        least: The least value.
        most: The greatest value.
        reason: What happens outside them, as a clause.
        zero: What 0 means where it is allowed beside them; empty where it is not.
    """

    least: float
    most: float
    reason: str
    zero: str = ""

    def __call__(self, value: float) -> float:
        """Return ``value``.

        Raises:
            ConfigError: If it is out of bounds; the caller adds the key.
        """
        if (self.zero and value == 0) or self.least <= value <= self.most:
            return value
        also = f", or 0 {self.zero}" if self.zero else ""
        raise ConfigError(
            f"{value:g} cannot be used: {self.reason}.",
            fix=f"Give a number from {self.least:.7g} to {self.most:.7g}{also}.",
        )


_OVERFLOWS = "steps of such a size overflow or vanish in float32"
_SCALES = "products with such a number overflow or vanish in float32"
_SAMPLES = "logits divided by such a number overflow or are all alike in float32"

LearningRate = Annotated[float, AfterValidator(Between(1e-12, 1e12, _OVERFLOWS))]
"""A learning rate."""

Scale = Annotated[float, AfterValidator(Between(1e-6, 1e6, _SCALES))]
"""A positive factor, norm or standard deviation."""

Weight = Annotated[float, AfterValidator(Between(1e-12, 1e6, _SCALES, "to leave it out"))]
"""The weight of a term of a loss."""

Margin = Annotated[float, AfterValidator(Between(1e-12, 1e6, _SCALES, "for none"))]
"""A least difference, or another number whose 0 means none."""

Temperature = Annotated[float, AfterValidator(Between(0.01, 100, _SAMPLES))]
"""What logits are divided by before something is drawn."""

GreedyTemperature = Annotated[float, AfterValidator(Between(0.01, 100, _SAMPLES, "for the most probable token"))]
"""The same where 0 stands for no draw at all."""

LogVariance = Annotated[float, AfterValidator(Between(-30, 30, "its exponential is no variance in float32"))]
"""The logarithm of a variance."""

Size = Annotated[int, Field(ge=1, le=65_536)]
"""How wide something is made: a larger one fits into no memory."""

Concentration = Annotated[
    float,
    AfterValidator(
        Between(1e-3, 1e6, "a Dirichlet distribution with it gives only zeros and ones, or cannot be drawn")
    ),
]
"""The concentration of a Dirichlet distribution."""

LogDeviation = Annotated[
    float, AfterValidator(Between(1e-6, 10, "sizes drawn with it differ by more than float64 holds"))
]
"""The standard deviation of a logarithm of sizes."""

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""A seed: files and arrays keep it in 64 bits."""

Count = Annotated[int, Field(ge=1, le=10_000_000)]
"""How many clients, users or pairs there are to be: more are a slip of the keyboard."""
