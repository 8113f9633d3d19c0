"""What a number in a configuration may be: only values that float32 and sampling can carry, by one rule for all keys.

float32 holds 1e-38 … 3e38 with seven digits. Training multiplies and squares what it is given (norms, second moments),
so a number far from 1 passes a check such as "positive" and then overflows, or vanishes without a word. NaN and
infinity are refused for every key, in :class:`fedvpa.core.config.Config`, and so are a truth value where a number is
wanted (YAML reads ``on`` and ``yes`` as true, which would count as 1) and a whole number of more than 64 bits. The
bounds are chosen by us, and wide: they keep out what cannot work, not what works badly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args

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

GREEDY_TEMPERATURE = Between(0.01, 100, _SAMPLES, "for the most probable token")
"""The same where 0 stands for no draw at all."""

GreedyTemperature = Annotated[float, AfterValidator(GREEDY_TEMPERATURE)]
"""Its type."""

LogVariance = Annotated[float, AfterValidator(Between(-30, 30, "its exponential is no variance in float32"))]
"""The logarithm of a variance."""

MOST_WIDE = 65_536
"""The widest that something can be made."""

Size = Annotated[int, Field(ge=1, le=MOST_WIDE)]
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
"""How many clients, users, pairs, rounds or prompts there are to be: more are a slip of the keyboard."""

Steps = Annotated[int, Field(ge=1, le=1_000_000)]
"""Steps of an optimiser whose draws are made at once: those of more fit into no memory."""


def check_number(value: Any, kind: Any) -> None:
    """Refuse what would pass for a number and is none that can be carried.

    Args:
        value: The value of a key, before it is converted.
        kind: The type of the key.

    Raises:
        ConfigError: If the key holds numbers and no truth values, and ``value`` is or contains one; or if it is or
            contains a whole number of more than 64 bits. The caller adds the key.
    """
    kinds = list(_leaves(kind))
    if bool in kinds or not (int in kinds or float in kinds):
        return
    for item in _items(value):
        if isinstance(item, bool):
            word = str(item).lower()
            raise ConfigError(f"a number is wanted, and {word} is none.", fix="YAML reads yes, no, on and off so, too.")
        if isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise ConfigError(f"{item} has more than 64 bits, and no array holds it.", fix="Give a smaller number.")


def _leaves(kind: Any) -> Iterator[Any]:
    """The types that a type is made of."""
    inner = get_args(kind)
    if not inner:
        yield kind
    for one in inner:
        yield from _leaves(one)


def _items(value: Any) -> Iterator[Any]:
    """What a value is made of; settings of their own are not looked into."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _items(item)
    else:
        yield value
