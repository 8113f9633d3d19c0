"""What a preference names: a z."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fedvpa.core.errors import ConfigError

Preference = str | float | Sequence[float] | Tensor
"""The name of a group; the number of a prototype, or a number between those of two neighbours (both also as text); or z
itself."""

GROUP, PROTOTYPE, USER = "group:", "prototype:", "user:"
"""What may stand before a name that could mean several things."""

Named = Mapping[str, Sequence[float]]
"""Group → the z that stands for it, in the order of the groups."""

Prototypes = Sequence[Sequence[float]]
"""The typical z of the selector, by number; empty for a method whose prototypes mean nothing."""


def latent_of(preference: Preference, named: Named, prototypes: Prototypes = ()) -> Float[Tensor, " k"]:
    """The z that a preference names.

    A number n names prototype n, whether or not there are groups; one between two neighbours, such as 0.3, a mixture of
    them: 0.7 of prototype 0 and 0.3 of prototype 1. Of a policy without prototypes (FedVPL, an earlier release) a
    number from 0 to 1 is a place on the way from the first to the second of two groups.

    Args:
        preference: What to follow.
        named: The groups.
        prototypes: The prototypes.

    Raises:
        ConfigError: If there is no such group or prototype.
    """
    if not isinstance(preference, str | int | float):
        return torch.as_tensor(preference, dtype=torch.float32)
    if isinstance(preference, str):
        if preference in named:
            return torch.tensor(named[preference])
        if preference.removeprefix(GROUP) in named:
            return torch.tensor(named[preference.removeprefix(GROUP)])
    number = as_number(preference)
    if number is None:
        raise ConfigError(
            f"There is no preference {preference!r}.", fix=f"The policy knows {known(named, prototypes)}."
        )
    if not prototypes and len(named) == 2:
        prototypes = list(named.values())
    shares = mixture(number, len(prototypes))
    if shares is None:
        raise ConfigError(
            f"The preference {preference} is no prototype, nor between two.",
            fix=f"The policy knows {known(named, prototypes)}.",
        )
    return (torch.tensor(list(shares.values())).unsqueeze(-1) * torch.tensor([prototypes[i] for i in shares])).sum(0)


def mixture(number: float, prototypes: int) -> dict[int, float] | None:
    """Prototype → its share of what a number names: one for a whole number, else two neighbours; None for neither."""
    if not 0 <= number <= prototypes - 1:
        return None
    lower = math.floor(number)
    share = number - lower
    return {lower: 1 - share, lower + 1: share} if share else {lower: 1.0}


def as_number(preference: Preference) -> float | None:
    """The number that a preference is, or says in words; None if it is none."""
    if isinstance(preference, str):
        preference = preference.removeprefix(PROTOTYPE)
    elif not isinstance(preference, int | float):
        return None
    try:
        return float(preference)
    except ValueError:
        return None


def shareable(named: Named, prototypes: Prototypes) -> tuple[dict[str, list[float]], tuple[str, ...]]:
    """Preferences by name whose z is a prototype, which is a weight of the selector; and the names of the others.

    Where a method has no prototypes, or a group lies near none, its z is the mean of its users' posteriors, maybe of a
    single one, and is not for others.
    """
    typical = [list(z) for z in prototypes]
    shared = {name: list(z) for name, z in named.items() if list(z) in typical}
    return shared, tuple(sorted(named.keys() - shared.keys()))


def known(named: Named, prototypes: Prototypes) -> str:
    """Groups and prototypes, in words."""
    parts = [f"groups: {', '.join(named) or 'none'}"]
    if prototypes:
        between = " and numbers between them, such as 0.3" if len(prototypes) > 1 else ""
        parts.append(f"prototypes: {', '.join(map(str, range(len(prototypes))))}{between}")
    return "; ".join(parts)
